"""Copies of tars and Parquet files for readers, which are holes where the images are.

    tar        header  |  image  | header  caption |  header  |  image  | ...
    copy       header     hole     header  caption    header     hole

A copy has the size of the original, so that positions in it are those of the original. A damaged file has a copy that
is damaged in the same place.
"""

import tarfile
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

from clipcap.data.remote.folder import RemoteError
from clipcap.data.stores.tar import tar_members

_CAPTIONS = (".txt", ".json")  # members of tars
_MAX_CAPTIONS = 16 << 20  # bytes of a member of captions
_REST = 1 << 20  # bytes that are copied after damage, so that the reader names it
_PIECE = 8 << 20  # bytes that are copied at once


def copy_with_holes(file: BinaryIO, target: Path) -> None:
    """Copy a tar or a Parquet file, which its name tells apart, but leave out the contents of images.

    Args:
        file: open for reading, with a position that can be changed.
        target: a file of the same size that is one hole.

    Raises:
        OSError: the file cannot be read, or the copy cannot be written.
    """
    holes = _parquet_holes(file) if target.name.lower().endswith(".parquet") else _tar_holes(file)
    size = target.stat().st_size
    position = 0
    with target.open("r+b") as copy:
        for offset, length in chain(holes, [(size, 0)]):
            copy.seek(position)
            while position < min(offset, size):
                file.seek(position)
                piece = file.read(min(offset - position, size - position, _PIECE))
                if not piece:
                    return
                copy.write(piece)
                position += len(piece)
            position = min(max(position, offset + length), size)


def _tar_holes(file: BinaryIO) -> Iterator[tuple[int, int]]:
    """Yield offset and size of the members that are no captions, and of what follows damage."""
    end = 0
    try:
        for member in tar_members(file):
            if not member.isreg() or member.issparse():
                continue
            end = member.offset_data + member.size
            if not member.name.lower().endswith(_CAPTIONS) or member.size > _MAX_CAPTIONS:
                yield member.offset_data, member.size
    except (tarfile.TarError, ValueError):
        yield end + _REST, 1 << 62


def _parquet_holes(file: BinaryIO) -> list[tuple[int, int]]:
    """Return offset and size of the chunks of binary columns; all of the file if it cannot be read."""
    try:
        from pyarrow import parquet
    except ImportError:  # the reader says so
        return [(0, 1 << 62)]
    try:
        metadata = parquet.ParquetFile(file, pre_buffer=False).metadata
        groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
        chunks = [group.column(number) for group in groups for number in range(group.num_columns)]
        binary = [_is_binary(metadata.schema.column(number)) for number in range(metadata.num_columns)]
    except (RemoteError, FileNotFoundError):
        raise
    except Exception:  # pyarrow raises errors of many classes: the file is damaged, and the reader says so
        return [(0, 1 << 62)]
    return sorted(_place(chunk) for number, chunk in enumerate(chunks) if binary[number % len(binary)])


def _is_binary(column: Any) -> bool:
    """Whether a column holds bytes that are not text."""
    is_bytes = column.physical_type in ("BYTE_ARRAY", "FIXED_LEN_BYTE_ARRAY")
    return is_bytes and column.logical_type.type == "NONE" and column.converted_type == "NONE"


def _place(chunk: Any) -> tuple[int, int]:
    starts = [start for start in (chunk.dictionary_page_offset, chunk.data_page_offset) if start]
    return min(starts), chunk.total_compressed_size
