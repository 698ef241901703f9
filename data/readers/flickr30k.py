"""Flickr30k as it is handed around: `results.csv` with `image_name| comment_number| comment`, over its pictures.

The published file has one row without its second bar (`2199200615.jpg| 4   A dog runs across the grass .`): its
caption is told from its number by the white space.
"""

import re
from pathlib import Path

from clipcap.data.errors import SourceError
from clipcap.data.readers.base import Columns, Reader
from clipcap.data.readers.pictures import Pictures, group_captions, read_text
from clipcap.data.records import Source

_HEADER = re.compile(r"image_name\s*\|\s*comment_number\s*\|\s*comment\s*")
_ROW = re.compile(r"([^|]+)\|\s*(\d+)\s*\|\s*(.*)")
_WITHOUT_BAR = re.compile(r"([^|]+)\|\s*(\d+)\s+(\S.*)")


class Flickr30kReader(Reader):
    """`results*.csv` with bars between its columns, beside its pictures or above them."""

    wants = "results.csv with image_name| comment_number| comment"

    def matches(self, path: Path) -> bool:
        return _file(path) is not None

    def read(self, path: Path, columns: Columns) -> Source:
        file = _file(path) or path
        if file.is_dir():
            raise SourceError(f"{path} has no Flickr30k table; looked for {self.wants}")
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
        return group_captions("flickr30k", Pictures(file.parent), rows, notes)


def _file(path: Path) -> Path | None:
    candidates = sorted(path.glob("results*.csv")) if path.is_dir() else [path]
    found = [file for file in candidates if file.suffix == ".csv" and _begins_with_header(file)]
    return found[0] if len(found) == 1 else None


def _begins_with_header(file: Path) -> bool:
    try:
        with file.open(encoding="utf-8-sig") as lines:
            return _HEADER.match(lines.readline(200)) is not None
    except (OSError, UnicodeDecodeError):
        return False
