"""Flickr30k as it is commonly distributed: `results.csv` with `image_name| comment_number| comment`, and its images.

One row of the published file lacks its second bar (`2199200615.jpg| 4   A dog runs across the grass .`). There, white
space separates the number from the caption.
"""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from clipcap.data.errors import SourceError
from clipcap.data.readers.base import Columns, FileReader
from clipcap.data.readers.images import ImageFinder, first_line, group_captions, read_lines
from clipcap.data.records import Source

_HEADER = re.compile(r"image_name\s*\|\s*comment_number\s*\|\s*comment\s*")
_ROW = re.compile(r"([^|]+)\|\s*(\d+)\s*\|\s*(.*)")
_SHOWN_ROWS = 5
_ROW_WITHOUT_BAR = re.compile(r"([^|]+)\|\s*(\d+)\s+(\S.*)")


class Flickr30kReader(FileReader):
    """Reads `results*.csv` with bars between its columns; the images are beside it or in folders below it."""

    expected_layout = "results.csv with image_name| comment_number| comment"

    def candidates(self, folder: Path) -> Iterable[Path]:
        return sorted(folder.glob("results*.csv"))

    def recognises(self, file: Path) -> bool:
        return file.suffix == ".csv" and _begins_with_header(file)

    def read_file(self, file: Path, root: Path, columns: Columns) -> Source:
        lines = read_lines(file)
        if not _HEADER.fullmatch(next(lines, "")):
            raise SourceError(f"{file} does not begin with image_name| comment_number| comment; give another `format`")
        notes: list[str] = []
        return group_captions("flickr30k", ImageFinder(root), _rows(file, lines, notes), notes)


def _rows(file: Path, lines: Iterable[str], notes: list[str]) -> Iterator[tuple[str, None, list[str]]]:
    """Yield the rows after the header as `group_captions` takes them, and add what there is to note."""
    odd = 0
    for number, line in enumerate(lines, 2):
        row = _ROW.fullmatch(line)
        if row is None and line.strip():
            row = _ROW_WITHOUT_BAR.fullmatch(line)
            what = "was read without its second bar" if row else "was left out, for it has not three columns"
            odd += 1
            if odd <= _SHOWN_ROWS:
                notes.append(f"{file.name} line {number} {what}: {line[:60]!r}")
        if row is not None:
            yield row[1].strip(), None, [row[3].strip()]
    if odd > _SHOWN_ROWS:
        notes.append(f"{odd - _SHOWN_ROWS:,} more lines like these")


def _begins_with_header(file: Path) -> bool:
    try:
        return _HEADER.match(first_line(file)[:200]) is not None
    except OSError:
        return False
