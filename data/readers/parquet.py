"""Parquet files with the images in a column, as Hugging Face's `datasets` writes and the Hub stores them.

    data/train-00000-of-00002.parquet         image: {bytes, path}    caption: text, or a list of texts
    data/train-00001-of-00002.parquet
    data/validation-00000-of-00001.parquet

Only the captions are read. The images stay where they are: `ParquetStore` reads them from the files.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import Any

from clipcap.data.errors import SourceError
from clipcap.data.readers.base import Columns, Reader
from clipcap.data.readers.images import NO_CAPTIONS, SUFFIXES, known_split, path_split
from clipcap.data.readers.tables import CAPTION_COLUMNS, IMAGE_COLUMNS, SPLIT_COLUMN
from clipcap.data.readers.walk import walk_files
from clipcap.data.records import Record, RecordsBuilder, Source
from clipcap.data.stores.parquet import ParquetStore, open_parquet, parquet_rows

_ENDINGS = (".parquet",)
_OTHER_DATA = (*SUFFIXES, ".tar", ".npy", ".npz", ".pkl", ".pickle")
_IMAGE_COLUMNS = ("image", "img", "jpg", "jpeg", "png", "webp", "image_bytes", "photo", *IMAGE_COLUMNS)
_NUMBERED_CAPTION = re.compile(r"caption_?\d+", re.IGNORECASE)
_LARGE_GROUP = 1 << 30  # bytes


class ParquetReader(Reader):
    """Reads a Parquet file, or all of them below a folder."""

    expected_layout = "a .parquet, or a folder of them, with a column of image bytes (datasets of Hugging Face)"
    has_columns = True

    def matches(self, path: Path) -> bool:
        file = next(_files(path), None)
        if file is None:
            return False
        try:
            return _guess_image(open_parquet(file).schema_arrow) is not None
        except SourceError:  # pyarrow is missing or the file is damaged: `read` says so, if there is nothing else
            return path.is_file() or not any(True for _ in walk_files(path, _OTHER_DATA))

    def read(self, path: Path, columns: Columns) -> Source:
        root = path if path.is_dir() else path.parent
        files = list(_files(path))
        if not files:
            raise SourceError(f"{path} holds no .parquet files")
        chosen = _choose_columns(files[0], columns)
        records = RecordsBuilder()
        notes = [chosen.note()]
        without_split = 0
        large: list[str] = []
        for file in files:
            name = file.relative_to(root).as_posix()
            split = path_split(name)
            last = ""  # the image of the row before: some datasets have a row for each caption
            with open_parquet(file) as opened:
                chosen.check(file, opened.schema_arrow)
                for number, row in enumerate(_rows(file, opened, chosen)):
                    own = known_split(row.split) if row.split else None
                    without_split += own is None and bool(row.split)
                    if row.name and row.name == last and records.split(len(records) - 1) == (own or split):
                        for caption in row.captions:
                            records.add_caption(len(records) - 1, caption)
                        continue
                    last = row.name
                    end = f"/{row.name}" if row.name else ""
                    image = f"{name}/{number}{end}"
                    records.append(Record(image, image, own or split, row.captions))
                groups = [opened.metadata.row_group(group) for group in range(opened.num_row_groups)]
                if any(group.total_byte_size > _LARGE_GROUP for group in groups):
                    large.append(name)
        if without_split:
            notes.append(f"{without_split:,} rows have a `{SPLIT_COLUMN}` of another name; the file's name decided")
        if large:
            notes.append(
                f"{len(large):,} files (such as {large[0]}) have groups of rows of more than 1 GiB, which every thread "
                "reads as a whole; write them again with smaller ones (row_group_size=100)"
            )
        if not records.caption_count():
            notes.append(NO_CAPTIONS)
        store = ParquetStore(root, chosen.image)
        return Source(format="parquet", root=root, records=records.build(), notes=notes, store=store)


@dataclass(frozen=True)
class _Columns:
    """The columns that are read.

    Attributes:
        file: the file that they were chosen from.
        image: the images.
        captions: the captions; empty if there are none.
    """

    file: Path
    image: str
    captions: tuple[str, ...]

    def note(self) -> str:
        captions = f"captions from column {', '.join(map(repr, self.captions))}" if self.captions else "no captions"
        return f"{self.file.name}: images from column {self.image!r}, {captions}"

    def check(self, file: Path, schema: Any) -> None:
        """Refuse a file that does not have the columns.

        Raises:
            SourceError: it does not.
        """
        for column, fits in ((self.image, _holds_images), *((caption, _holds_text) for caption in self.captions)):
            if column not in schema.names or not fits(schema.field(column).type):
                raise SourceError(
                    f"{file} has no column {column!r} as {self.file} has it; give a file, or a folder whose files "
                    "have the same columns"
                )


@dataclass(frozen=True, slots=True)
class _Row:
    """One row: the name of its image file or "", its split as it is written or None, and its captions."""

    name: str
    split: str | None
    captions: tuple[str, ...]


def _files(path: Path) -> Iterator[Path]:
    if path.is_dir():
        yield from walk_files(path, _ENDINGS)
    elif path.name.lower().endswith(_ENDINGS):
        yield path


def _choose_columns(file: Path, wanted: Columns) -> _Columns:
    schema = open_parquet(file).schema_arrow
    image = wanted.image or _guess_image(schema)
    if image is None:
        raise SourceError(
            f"{file} has no column of images, as bytes or {{bytes, path}}; its columns: {_described(schema)}"
        )
    for column, fits, what in ((image, _holds_images, "images"), (wanted.caption, _holds_text, "texts")):
        if column is not None and column not in schema.names:
            raise SourceError(f"{file} has no column {column!r}; its columns: {_described(schema)}")
        if column is not None and not fits(schema.field(column).type):
            raise SourceError(f"{file} has a column {column!r}, but not of {what}; its columns: {_described(schema)}")
    captions = (wanted.caption,) if wanted.caption is not None else _guess_captions(schema)
    return _Columns(file, image, captions)


def _guess_image(schema: Any) -> str | None:
    """Return the column of images: the first of the known names, or else the only one with {bytes, path}."""
    fitting = {column.name.lower(): column.name for column in schema if _holds_images(column.type)}
    structs = [column.name for column in schema if _is_struct(column.type)]
    known = next((fitting[name] for name in _IMAGE_COLUMNS if name in fitting), None)
    return known or (structs[0] if len(structs) == 1 else None)


def _guess_captions(schema: Any) -> tuple[str, ...]:
    """Return the column of captions: the first of the known names, or else all of caption_0, caption_1, ..."""
    texts = {column.name.lower(): column.name for column in schema if _holds_text(column.type)}
    known = next((texts[name] for name in CAPTION_COLUMNS if name in texts), None)
    return (known,) if known else tuple(texts[name] for name in texts if _NUMBERED_CAPTION.fullmatch(name))


def _holds_images(type: Any) -> bool:
    return _is_binary(type) or _is_struct(type)


def _is_struct(type: Any) -> bool:
    """Whether values of a type consist of bytes and a path, or of one of them."""
    from pyarrow import types

    if not types.is_struct(type):
        return False
    fields = {type.field(i).name: type.field(i).type for i in range(type.num_fields)}
    fits = {"bytes": _is_binary, "path": _is_text}
    # A field without any value has the type null, unless the writer gave it one.
    return bool(fields) and all(
        name in fits and (fits[name](field) or types.is_null(field)) for name, field in fields.items()
    )


def _is_binary(type: Any) -> bool:
    from pyarrow import types

    return bool(types.is_binary(type) or types.is_large_binary(type))


def _holds_text(type: Any) -> bool:
    from pyarrow import types

    return _is_text(type.value_type if types.is_list(type) or types.is_large_list(type) else type)


def _is_text(type: Any) -> bool:
    from pyarrow import types

    if types.is_dictionary(type):
        type = type.value_type
    return bool(types.is_string(type) or types.is_large_string(type))


def _described(schema: Any) -> str:
    return ", ".join(f"{column.name} ({column.type})" for column in schema)[:300]


def _rows(file: Path, opened: Any, columns: _Columns) -> Iterator[_Row]:
    """Yield the rows of a file. Of the images, only the names are read."""
    schema = opened.schema_arrow
    image = schema.field(columns.image).type
    has_name = "path" in [image.field(i).name for i in range(image.num_fields)]
    has_split = SPLIT_COLUMN in schema.names and _is_text(schema.field(SPLIT_COLUMN).type)
    chosen = [*columns.captions, *([f"{columns.image}.path"] if has_name else []), *([SPLIT_COLUMN] * has_split)]
    if not chosen:
        yield from (_Row("", None, ()) for _ in range(opened.metadata.num_rows))
        return
    for values in parquet_rows(file, opened, chosen):
        name = (values[columns.image] or {}).get("path") if has_name else None
        captions = chain.from_iterable(_texts(values[column]) for column in columns.captions)
        end = PurePosixPath((name or "").replace("\\", "/")).name
        yield _Row(end, values.get(SPLIT_COLUMN) if has_split else None, tuple(captions))


def _texts(value: str | list[str | None] | None) -> list[str]:
    texts = value if isinstance(value, list) else [value]
    return [text for text in texts if text is not None and text.strip()]
