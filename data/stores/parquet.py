"""Images inside Parquet files, as bytes in a column, and how Parquet files are read."""

import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from clipcap.data.errors import ImageError, SourceError, one_line
from clipcap.data.image_store import MAX_BYTES, FileStamp, ImageStore, file_stamp, read_image_file

_BATCH = 4096  # rows
_PATH = re.compile(r"(?P<file>.+\.parquet)/(?P<row>\d+)(?:/[^/]*)?", re.DOTALL | re.IGNORECASE)


@dataclass(frozen=True)
class ParquetStore(ImageStore):
    """Images in a column of Parquet files.

    A value of the column is the content of an image file, or a struct {bytes, path} as `datasets` writes it. If a
    struct has no bytes, its path is that of an image file relative to `root`. Rows can only be read in groups, so each
    thread keeps the group that it read last.

    Attributes:
        root: the folder that the names of the files are relative to.
        column: the column of images.
    """

    root: Path
    column: str
    _last: threading.local = field(default_factory=threading.local, init=False, repr=False, compare=False)

    def __reduce__(self) -> tuple[Any, ...]:
        return ParquetStore, (self.root, self.column)

    def read(self, path: str) -> bytes:
        value = self._value(*_place(path))
        data, name = (value.get("bytes"), value.get("path")) if isinstance(value, dict) else (value, None)
        if data is None and name:
            return read_image_file(self.root / _below(name))
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
            if not (getattr(self._last, "file", None) == file and row in self._last.rows):
                self._read_group(file, row)
            return self._last.values[row - self._last.rows.start].as_py()
        except SourceError as error:
            raise ImageError(str(error)) from error
        except ImageError:
            raise
        except Exception as error:  # pyarrow raises errors of many classes
            raise ImageError(f"rows of {file} cannot be read ({one_line(error)[:120]})") from error

    def _read_group(self, file: str, row: int) -> None:
        """Read the group that has the row."""
        self._last.file = None
        self._last.values = None  # frees the memory of the old group
        with open_parquet(self.root / file) as opened:
            start = 0
            for group in range(opened.num_row_groups):
                rows = range(start, start + opened.metadata.row_group(group).num_rows)
                start = rows.stop
                if row in rows:
                    table = opened.read_row_group(group, columns=[self.column], use_threads=False)
                    self._last.file, self._last.rows, self._last.values = file, rows, table.column(self.column)
                    return
        raise ImageError("there is no such row")


def _place(path: str) -> tuple[str, int]:
    """Return the file and the row of an image."""
    found = _PATH.fullmatch(path)
    if found is None:
        raise ImageError("there is no such row")
    return found["file"], int(found["row"])


def open_parquet(path: Path) -> Any:
    """Open a Parquet file.

    Returns:
        A `pyarrow.parquet.ParquetFile` that starts no threads for reading: stage 1 has one for each core already.

    Raises:
        SourceError: pyarrow is not installed, or the file cannot be read.
    """
    if path.exists() and not path.is_file():
        raise SourceError(f"{path} is not a regular file")  # a FIFO is not waited for
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise SourceError(f"{path} is a parquet table; to read it, install pyarrow: pip install pyarrow") from error
    try:
        return parquet.ParquetFile(path, pre_buffer=False)
    except Exception as error:  # pyarrow raises errors of many classes
        raise SourceError(f"{path} cannot be read ({one_line(error)[:120]}); write or download it again") from error


def parquet_rows(path: Path, opened: Any, columns: list[str] | None = None) -> Iterator[dict[str, Any]]:
    """Yield the rows of an open file as dictionaries.

    Args:
        path: of the file, named in the error.
        opened: what `open_parquet` returned.
        columns: that are read, as `a`, or as `a.b` for one field of a struct; by default all.

    Raises:
        SourceError: the file is damaged.
    """
    try:
        for batch in opened.iter_batches(_BATCH, columns=columns, use_threads=False):
            yield from batch.to_pylist()
    except Exception as error:  # pyarrow raises errors of many classes
        raise SourceError(f"{path} cannot be read ({one_line(error)[:120]}); write or download it again") from error


def _below(name: str) -> PurePosixPath:
    """Return a path that stays below the folder that it is relative to."""
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts:
        raise ImageError(f"its row has no bytes, and the path {name!r:.80} leads out of the dataset's folder")
    return path
