"""Images inside Parquet files, as bytes in a column, and how Parquet files are read."""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path, PurePosixPath
from typing import Any

from clipcap.data.errors import ImageError, SourceError, one_line, unreadable
from clipcap.data.image_store import MAX_BYTES, Files, FileStamp, ImageStore, file_stamp
from clipcap.data.stores.row_groups import RowGroups

_BATCH, _SMALL_BATCH = 4096, 16  # rows
# What compresses better than texts do may expand to any size: a dictionary keeps a text that many rows share once.
_RATIO = 20
_MOST_RATIO, _MOST_BYTES = 100, 1 << 26
_ROWS_PER_BYTE = 8
_PATH = re.compile(r"(?P<file>.+\.parquet)/(?P<row>\d+)(?:/[^/]*)?", re.DOTALL | re.IGNORECASE)


@dataclass(frozen=True)
class ParquetStore(ImageStore):
    """Images in a column of Parquet files.

    A value of the column is the content of an image file, or a struct {bytes, path} as `datasets` writes it. If a
    struct has no bytes, its path is that of an image file relative to `root`.

    Attributes:
        column: the column of images.
    """

    column: str

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(ParquetStore, files=self.files), (self.root, self.column)

    @cached_property
    def _groups(self) -> RowGroups:
        return RowGroups(self.column, lambda name: open_parquet(self.root / name, self.files))

    def read(self, path: str) -> bytes:
        value = self._value(*_place(path))
        data, name = (value.get("bytes"), value.get("path")) if isinstance(value, dict) else (value, None)
        if data is None and name:
            return self.files.read(self.root / _below(name))
        if not isinstance(data, bytes):
            raise ImageError("its row has no image")
        if len(data) > MAX_BYTES:
            raise ImageError(f"{len(data):,} bytes: too large for an image")
        return data

    def stamp(self, path: str) -> FileStamp:
        return file_stamp(self.root / _place(path)[0])

    def _value(self, file: str, row: int) -> Any:
        """Return the value in a row of a file, rows counted from 0."""
        try:
            return self._groups.value(file, row)
        except SourceError as error:
            raise ImageError(str(error)) from error
        except ImageError:
            raise
        except Exception as error:  # pyarrow raises errors of many classes
            raise ImageError(f"rows of {file} cannot be read ({one_line(error)[:120]})") from error


def _place(path: str) -> tuple[str, int]:
    """Return the file and the row of an image."""
    found = _PATH.fullmatch(path)
    if found is None:
        raise ImageError("there is no such row")
    return found["file"], int(found["row"])


def open_parquet(path: Path, files: Files | None = None) -> Any:
    """Open a Parquet file.

    Args:
        path: of the file.
        files: the content of the file; by default what is at the path.

    Returns:
        A `pyarrow.parquet.ParquetFile` that starts no threads for reading: stage 1 has one for each core already.

    Raises:
        SourceError: pyarrow is not installed, or the file cannot be read, has several columns of one name, or claims
            more rows than it can hold.
    """
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise SourceError(f"{path} is a parquet table; to read it, install pyarrow: pip install pyarrow") from error
    try:
        opened = parquet.ParquetFile((files or Files()).open(path), pre_buffer=False)
    except Exception as error:  # pyarrow raises errors of many classes
        raise unreadable(path, error, "write or download it again") from error
    rows, size = opened.metadata.num_rows, path.stat().st_size
    if rows > _ROWS_PER_BYTE * size:
        raise SourceError(f"{path} claims to have {rows:,} rows in {size:,} bytes; write or download it again")
    twice = next((name for name, count in Counter(opened.schema_arrow.names).items() if count > 1), None)
    if twice is not None:
        raise SourceError(f"{path} has several columns named {twice!r:.60}; rename them")
    return opened


def parquet_rows(path: Path, opened: Any, columns: list[str] | None = None) -> Iterator[dict[str, Any]]:
    """Yield the rows of an open file as dictionaries.

    Args:
        path: of the file, named in the error.
        opened: what `open_parquet` returned.
        columns: that are read, as `a`, or as `a.b` for one field of a struct; by default all.

    Raises:
        SourceError: the file is damaged, or unpacks to far more than its size.
    """
    most = _MOST_BYTES + _MOST_RATIO * path.stat().st_size
    read = 0
    try:
        for batch in opened.iter_batches(
            _batch_size(opened.metadata, path.stat().st_size), columns=columns, use_threads=False
        ):
            read += batch.nbytes
            if read > most:
                raise SourceError(f"{path} unpacks to more than {most:,} bytes of text; shorten its texts")
            yield from batch.to_pylist()
    except SourceError:
        raise
    except Exception as error:  # pyarrow raises errors of many classes
        raise unreadable(path, error, "write or download it again") from error


def _batch_size(metadata: Any, size: int) -> int:
    # Of row groups alone: what pyarrow says of a column ends the process where that is damaged.
    unpacked = sum(metadata.row_group(number).total_byte_size for number in range(metadata.num_row_groups))
    return _SMALL_BATCH if unpacked > _RATIO * size else _BATCH


def _below(name: str) -> PurePosixPath:
    """Return a path that stays below the folder that it is relative to."""
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts:
        raise ImageError(f"its row has no bytes, and the path {name!r:.80} leads out of the dataset's folder")
    return path
