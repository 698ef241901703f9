"""Flickr30k as it is handed around: `results.csv` with `image_name| comment_number| comment`, over its pictures.

The published file has one row without its second bar (`2199200615.jpg| 4   A dog runs across the grass .`): its
caption is told from its number by the white space.
"""

import re
from collections.abc import Iterable
from pathlib import Path

from clipcap.data.errors import SourceError
from clipcap.data.readers.base import Columns, FileReader
from clipcap.data.readers.images import ImageFinder, group_captions, read_text
from clipcap.data.records import Source

_HEADER = re.compile(r"image_name\s*\|\s*comment_number\s*\|\s*comment\s*")
_ROW = re.compile(r"([^|]+)\|\s*(\d+)\s*\|\s*(.*)")
_WITHOUT_BAR = re.compile(r"([^|]+)\|\s*(\d+)\s+(\S.*)")


class Flickr30kReader(FileReader):
    """`results*.csv` with bars between its columns, beside its pictures or above them."""

    expected_layout = "results.csv with image_name| comment_number| comment"

    def candidates(self, folder: Path) -> Iterable[Path]:
        return sorted(folder.glob("results*.csv"))

    def recognises(self, file: Path) -> bool:
        return file.suffix == ".csv" and _begins_with_header(file)

    def read_file(self, file: Path, root: Path, columns: Columns) -> Source:
        lines = read_text(file).splitlines()
        if not (lines and _HEADER.fullmatch(lines[0])):
            raise SourceError(f"{file} does not begin with image_name| comment_number| comment; give another --format")
        rows, notes = [], []
        for number, line in enumerate(lines[1:], 2):
            row = _ROW.fullmatch(line)
            if row is None and line.strip():
                row = _WITHOUT_BAR.fullmatch(line)
                what = "read without its second bar" if row else "left out: not three columns"
                notes.append(f"{file.name} line {number} {what}: {line[:60]!r}")
            if row is not None:
                rows.append((row[1].strip(), None, [row[3].strip()]))
        return group_captions("flickr30k", ImageFinder(root), rows, notes)


def _begins_with_header(file: Path) -> bool:
    try:
        with file.open(encoding="utf-8-sig") as lines:
            return _HEADER.match(lines.readline(200)) is not None
    except (OSError, UnicodeDecodeError):
        return False
