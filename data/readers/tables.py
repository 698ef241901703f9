"""Tables: CSV, TSV, JSON lines and Parquet with a column of image names and a column of captions.

These are recognised without naming the columns: Hugging Face's `metadata.csv`, `metadata.jsonl` and `metadata.parquet`
(file_name, text), which may be in the folder of each split, open_clip's CSV (filepath, title; separated by tabs),
Kaggle's Flickr8k `captions.txt` (image, caption), and the TSV of Conceptual Captions, which has no header (caption,
URL). The images of the last are local files named after their row (00000012.jpg, as rmokady's script names them) or
after the end of their URL.
"""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

from clipcap.data.csv_cells import unescape_formula
from clipcap.data.errors import SourceError, one_line
from clipcap.data.files import parse_json
from clipcap.data.readers.base import Columns, FileReader
from clipcap.data.readers.csv_rows import check_one_image, read_csv_rows
from clipcap.data.readers.images import ImageFinder, first_line, group_captions, known_split, path_split, read_lines
from clipcap.data.readers.walk import walk_files
from clipcap.data.records import SPLITS, Source
from clipcap.data.stores.parquet import open_parquet, parquet_rows

_SUFFIXES = {".csv", ".tsv", ".jsonl", ".txt"}
_METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
_METADATA_COLUMN = "file_name"
_DELIMITERS = "\t,;|"
IMAGE_COLUMNS = (
    "file_name", "filename", "filepath", "file_path", "image_path", "image", "image_name", "img", "path", "file",
    "picture",
)  # fmt: skip
CAPTION_COLUMNS = (
    "caption", "captions", "text", "title", "sentence", "sentences", "comment", "description", "raw", "txt",
)  # fmt: skip
SPLIT_COLUMN = "split"


class TableReader(FileReader):
    """Reads one table, or the single table in a folder, with the images below the folder.

    Files named metadata are read together, wherever they are below a folder, as `datasets` of Hugging Face does
    ("imagefolder"): their images are below their own folders, which may be those of the splits.
    """

    expected_layout = (
        "a .csv, .tsv, .jsonl or .parquet with a column of image names (file_name, image, filepath, ...) and one of "
        "captions, or metadata.csv, .jsonl or .parquet in the folder of each split"
    )
    has_columns = True

    def matches(self, path: Path) -> bool:
        return bool(self._tables(path))

    def recognises(self, file: Path) -> bool:
        if file.suffix == ".parquet":
            return _looks_like_parquet(file)
        return file.suffix in _SUFFIXES and file.is_file() and _looks_like_table(file)

    def read(self, path: Path, columns: Columns) -> Source:
        files = self._tables(path)
        if path.is_dir() and files and files[0].name in _METADATA:
            return _read_tables(files, ImageFinder(path), columns)
        return super().read(path, columns)

    def read_file(self, file: Path, root: Path, columns: Columns) -> Source:
        finder = ImageFinder(root)
        if _is_conceptual(file):
            notes = [f"{file.name} has no header; it was read as caption, URL (Conceptual Captions)"]
            return group_captions("table", finder, _conceptual_rows(file, finder), notes)
        return _read_tables([file], finder, columns)

    def _tables(self, path: Path) -> list[Path]:
        """Return the tables that `path` stands for."""
        found = self.find(path)
        metadata: list[Path] = []
        if path.is_dir() and (found is None or found.name in _METADATA):
            files = [file for file in walk_files(path, _METADATA) if file.name in _METADATA and _is_metadata(file)]
            first: dict[Path, Path] = {}  # a folder may have the same table in several formats
            for file in sorted(files, key=lambda file: _METADATA.index(file.name)):
                first.setdefault(file.parent, file)
            metadata = [file for file in files if first[file.parent] == file]
        return [found] if found is not None and found not in metadata else metadata

    def find(self, path: Path) -> Path | None:
        """Return the table that `path` stands for: of one in several formats, the one that can be read as text."""
        found = [file for file in (self.candidates(path) if path.is_dir() else [path]) if self.recognises(file)]
        texts = [file for file in found if file.suffix != ".parquet"] or found
        return texts[0] if len(texts) == 1 else None


def _read_tables(files: list[Path], finder: ImageFinder, columns: Columns) -> Source:
    notes: list[str] = []
    rows = (row for file in files for row in _read_table(file, finder, columns, notes))
    return group_captions("table", finder, rows, notes)


def _read_table(
    file: Path, finder: ImageFinder, columns: Columns, notes: list[str]
) -> Iterator[tuple[str, str | None, list[str]]]:
    """Yield the rows of one table as `group_captions` takes them, and add what there is to note."""
    table = _TABLES.get(file.suffix, _Csv)(file)
    image = _column(file, table.columns, columns.image, IMAGE_COLUMNS, "images", "image_column")
    caption = _column(file, table.columns, columns.caption, CAPTION_COLUMNS, "captions", "caption_column")
    name = file.relative_to(finder.root).as_posix()
    folder = name.removesuffix(file.name)  # "", or with a slash at its end
    notes.append(f"{name}: images from column {image!r}, captions from column {caption!r}")
    incomplete = 0
    for number, values in table.rows(image, lambda own, name: _exists_alike(finder, folder + own, folder + name)):
        if not values.get(image) or values.get(caption) in (None, ""):
            incomplete += 1
            continue
        where = f"{file} {table.row} {number}"
        path = folder + _name(where, values[image])
        split = _split(where, values.get(SPLIT_COLUMN))
        if split is None and file.name in _METADATA:
            split = path_split(str(PurePosixPath(finder.find(path) or PurePosixPath(path).name).parent))
        yield path, split, _texts(where, values[caption])
    if incomplete:
        notes.append(f"{incomplete:,} rows of {name} without an image or a caption were left out")


class _Csv:
    """A CSV or TSV file.

    Attributes:
        columns: the names of its columns.
        row: what a row is called in errors.
    """

    row = "line"

    def __init__(self, file: Path) -> None:
        lines = read_lines(file)
        header = next(lines, "")
        self._file = file
        self._delimiter = max(_DELIMITERS, key=header.count)
        self._rows = read_csv_rows(file, chain([header], lines), self._delimiter)
        first = next(self._rows, None)
        self.columns = [name.strip() for name in first.fields] if first else []

    def rows(self, image_column: str, exists: Callable[[str, str], bool]) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yield the line number and the values by column of each row.

        Args:
            image_column: the column of image names.
            exists: whether an image exists, given the name of the row's image and the name in question; for
                `check_one_image`.
        """
        width = len(self.columns)
        column = self.columns.index(image_column)
        for row in self._rows:
            own_name = unescape_formula(row.fields[column]) if column < len(row.fields) else ""
            check_one_image(self._file, row, self._delimiter, column, width, partial(exists, own_name))
            # Kaggle's captions.txt does not quote the commas in its last column.
            fields = [*row.fields[: width - 1], self._delimiter.join(row.fields[width - 1 :])]
            yield row.number, dict(zip(self.columns, map(unescape_formula, fields), strict=False))


class _JsonLines:
    """A file with one JSON object a line.

    Attributes:
        columns: the keys of the first object.
        row: what a row is called in errors.
    """

    row = "line"

    def __init__(self, file: Path) -> None:
        self._file = file
        first = next(self._objects(), None)
        self.columns = list(first[1]) if first else []

    def rows(self, image_column: str, exists: Callable[[str, str], bool]) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yield the line number and the values of each row; the arguments are those of `_Csv.rows`."""
        yield from self._objects()

    def _objects(self) -> Iterator[tuple[int, dict[str, Any]]]:
        for number, line in enumerate(read_lines(self._file), 1):
            if not line.strip():
                continue
            try:
                values = parse_json(line)
            except ValueError as error:
                raise SourceError(
                    f"{self._file} line {number} is not JSON ({one_line(error)}); fix that line"
                ) from error
            if not isinstance(values, dict):
                raise SourceError(f"{self._file} line {number} is not an object but {line[:40]!r}; fix that line")
            yield number, values


class _Parquet:
    """A Parquet file.

    Attributes:
        columns: the names of its columns that are not binary.
        row: what a row is called in errors.
    """

    row = "row"

    def __init__(self, file: Path) -> None:
        self._file = file
        from pyarrow import types

        self._opened = open_parquet(file)
        schema = self._opened.schema_arrow
        self.columns = [column.name for column in schema if not types.is_binary(column.type)]

    def rows(self, image_column: str, exists: Callable[[str, str], bool]) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yield the number, from 0, and the values of each row; the arguments are those of `_Csv.rows`."""
        yield from enumerate(parquet_rows(self._file, self._opened, self.columns))


_TABLES: dict[str, type[_Csv] | type[_JsonLines] | type[_Parquet]] = {".jsonl": _JsonLines, ".parquet": _Parquet}


def _exists_alike(finder: ImageFinder, own_name: str, name: str) -> bool:
    """Return whether an image has the name, exactly or with the difference that another name has from its image.

    In a listing without suffixes, `dog` is an image; in other listings it is a word, although there is a `dog.jpg`.
    """
    match = finder.match(name)
    return match.path is not None and match.difference in ("", finder.match(own_name).difference)


def _column(file: Path, columns: list[str], wanted: str | None, known: Iterable[str], what: str, parameter: str) -> str:
    """Return the column that the user wants, or else the first of the known names that the table has."""
    if wanted is not None:
        if wanted in columns:
            return wanted
        raise SourceError(f"{file} has no column {wanted!r}; its columns: {', '.join(columns)[:300]}")
    lower = {column.lower(): column for column in reversed(columns)}
    found = next((lower[name] for name in known if name in lower), None)
    if found is None:
        raise SourceError(
            f"{file} has no column with a known name for {what}; name it with `{parameter}`; its columns: "
            f"{', '.join(columns)[:300] or 'none'}"
        )
    return found


def _name(where: str, value: Any) -> str:
    if not isinstance(value, str | int):
        raise SourceError(f"{where} has an image that is not text: {value!r:.60}; fix that line")
    return str(value).strip()


def _texts(where: str, value: Any) -> list[str]:
    texts = value if isinstance(value, list) else [value]
    if not all(isinstance(text, str) for text in texts):
        raise SourceError(f"{where} has a caption that is not text: {value!r:.60}; fix that line")
    return texts


def _split(where: str, value: Any) -> str | None:
    if value in (None, ""):
        return None
    split = known_split(str(value))
    if split is None:
        raise SourceError(f"{where} has the split {value!r:.60}; use {', '.join(SPLITS)}")
    return split


def _conceptual_rows(file: Path, finder: ImageFinder) -> Iterator[tuple[str, str | None, list[str]]]:
    for number, line in enumerate(read_lines(file)):
        caption, _, url = line.partition("\t")
        if not url:
            continue
        end = unquote(PurePosixPath(urlsplit(url).path).name)
        names = [f"{number:08d}.jpg", url, end]
        yield next((name for name in names if finder.find(name) is not None), names[0]), None, [caption]


def _is_conceptual(file: Path) -> bool:
    first = _first_line(file).split("\t")
    return file.suffix == ".tsv" and len(first) == 2 and first[1].startswith(("http://", "https://"))


def _looks_like_table(file: Path) -> bool:
    line = _first_line(file)
    if file.suffix == ".jsonl":
        return line.startswith("{")
    if file.suffix == ".txt":  # Kaggle's file only; any other .txt is taken for plain text
        return line.lower().split(",") == ["image", "caption"]
    return any(delimiter in line for delimiter in _DELIMITERS)


def _looks_like_parquet(file: Path) -> bool:
    try:
        columns = {name.lower() for name in open_parquet(file).schema_arrow.names}
    except SourceError:
        return False
    return not columns.isdisjoint(IMAGE_COLUMNS) and not columns.isdisjoint(CAPTION_COLUMNS)


def _is_metadata(file: Path) -> bool:
    """Whether a file of that name has the column that `datasets` requires in it."""
    try:
        columns = open_parquet(file).schema_arrow.names if file.suffix == ".parquet" else first_line(file)
        return _METADATA_COLUMN in columns
    except (OSError, SourceError):  # pyarrow is missing, or the file cannot be read: reading it says so
        return True


def _first_line(file: Path) -> str:
    try:
        return first_line(file)
    except OSError:
        return ""
