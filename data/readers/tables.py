"""Tables: CSV, TSV and JSON lines with a column that names pictures and one that holds captions.

Known without being told: Hugging Face's `metadata.jsonl` and `metadata.csv` (file_name, text), open_clip's CSV
(filepath, title; tabs), Kaggle's Flickr8k `captions.txt` (image, caption), and the Conceptual Captions TSV, which has
no header (caption, URL): its pictures are local files called after their row (00000012.jpg, as rmokady's script names
them) or after the end of their URL.
"""

import csv
import io
import json
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

from clipcap.data.errors import SourceError, one_line
from clipcap.data.readers.base import Columns, FileReader
from clipcap.data.readers.images import ImageFinder, group_captions, known_split, read_text
from clipcap.data.records import SPLITS, Source

_SUFFIXES = {".csv", ".tsv", ".jsonl", ".txt"}
IMAGE_COLUMNS = (
    "file_name", "filename", "filepath", "file_path", "image_path", "image", "image_name", "img", "path", "file",
    "picture",
)  # fmt: skip
CAPTION_COLUMNS = ("caption", "captions", "text", "title", "sentence", "comment", "description", "raw")
_SPLIT_COLUMN = "split"

Row = dict[str, Any]


class TableReader(FileReader):
    """One table, or a folder with a single one, with the pictures below the folder."""

    expected_layout = (
        "a .csv, .tsv or .jsonl with a column of pictures (file_name, image, filepath, ...) and one of captions"
    )
    has_columns = True

    def recognises(self, file: Path) -> bool:
        return file.suffix in _SUFFIXES and file.is_file() and _looks_like_table(file)

    def read_file(self, file: Path, root: Path, columns: Columns) -> Source:
        pictures = ImageFinder(root)
        if _is_conceptual(file):
            rows: list[tuple[str, str | None, Iterable[str]]] = list(_conceptual_rows(file, pictures))
            return group_captions("table", pictures, rows, ["no header: read as caption, URL (Conceptual Captions)"])
        names, table = _read(file)
        picture = _column(file, names, columns.image, IMAGE_COLUMNS, "pictures", "--picture-column")
        caption = _column(file, names, columns.caption, CAPTION_COLUMNS, "captions", "--caption-column")
        notes = [f"{file.name}: pictures from column {picture!r}, captions from column {caption!r}"]
        rows, without = [], 0
        for row in table:
            if not row.get(picture) or row.get(caption) in (None, ""):
                without += 1
                continue
            rows.append((str(row[picture]).strip(), _split(file, row.get(_SPLIT_COLUMN)), _texts(file, row[caption])))
        if without:
            notes.append(f"{without:,} rows of {file.name} left out: no picture or no caption in them")
        return group_captions("table", pictures, rows, notes)


def _read(file: Path) -> tuple[list[str], Iterator[Row]]:
    """The columns of a table, and its rows."""
    text = read_text(file)
    if file.suffix == ".jsonl":
        return _read_json_lines(file, text)
    header = text.split("\n", 1)[0]
    delimiter = max("\t,;|", key=header.count)
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, restkey="")
    columns = [name.strip() for name in reader.fieldnames or []]
    reader.fieldnames = columns

    def rows() -> Iterator[Row]:
        for row in reader:
            beyond = row.pop("", None)
            # A comma in the last column that nobody quoted, as in Kaggle's captions.txt.
            if beyond and columns:
                row[columns[-1]] = delimiter.join([row[columns[-1]], *beyond])
            yield row

    return columns, rows()


def _read_json_lines(file: Path, text: str) -> tuple[list[str], Iterator[Row]]:
    rows: list[Row] = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise SourceError(f"{file} line {number} is not JSON ({one_line(error)}); mend it") from error
        if not isinstance(row, dict):
            raise SourceError(f"{file} line {number} is not an object but {line[:40]!r}; mend it")
        rows.append(row)
    return list(rows[0]) if rows else [], iter(rows)


def _column(file: Path, columns: list[str], wanted: str | None, known: Iterable[str], what: str, option: str) -> str:
    if wanted is not None:
        if wanted in columns:
            return wanted
        raise SourceError(f"{file} has no column {wanted!r}; its columns: {', '.join(columns)}")
    lower = {column.lower(): column for column in reversed(columns)}
    found = next((lower[name] for name in known if name in lower), None)
    if found is None:
        raise SourceError(
            f"{file} has no column that is known to hold {what}; name it with {option}; its columns: "
            f"{', '.join(columns) or 'none'}"
        )
    return found


def _texts(file: Path, value: Any) -> list[str]:
    texts = value if isinstance(value, list) else [value]
    if not all(isinstance(text, str) for text in texts):
        raise SourceError(f"{file} has a caption that is no text: {value!r:.60}; mend it")
    return texts


def _split(file: Path, value: Any) -> str | None:
    if value in (None, ""):
        return None
    split = known_split(str(value))
    if split is None:
        raise SourceError(f"{file} has the split {value!r}; use {', '.join(SPLITS)}")
    return split


def _conceptual_rows(file: Path, pictures: ImageFinder) -> Iterator[tuple[str, str | None, list[str]]]:
    for number, line in enumerate(read_text(file).splitlines()):
        caption, _, url = line.partition("\t")
        if not url:
            continue
        end = unquote(PurePosixPath(urlsplit(url).path).name)
        names = [f"{number:08d}.jpg", url, end]
        yield next((name for name in names if pictures.find(name) is not None), names[0]), None, [caption]


def _is_conceptual(file: Path) -> bool:
    first = _first_line(file).split("\t")
    return file.suffix == ".tsv" and len(first) == 2 and first[1].startswith(("http://", "https://"))


def _looks_like_table(file: Path) -> bool:
    line = _first_line(file)
    if file.suffix == ".jsonl":
        return line.startswith("{")
    if file.suffix == ".txt":  # only as Kaggle has it: any other text is a text
        return line.lower().split(",") == ["image", "caption"]
    return sum(map(line.count, "\t,;|")) > 0


def _first_line(file: Path) -> str:
    try:
        with file.open(encoding="utf-8-sig", errors="replace") as lines:
            return lines.readline(10_000).strip()
    except OSError:
        return ""
