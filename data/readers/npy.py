"""Reads the arrays of `.npy` and `.npz` files, with sizes held against that of the file before memory is taken.

    \\x93NUMPY  1 0  length  {'descr': '<f4', 'fortran_order': False, 'shape': (3, 512), }  numbers

Only numbers and texts are read. The header is matched and not evaluated as Python, as numpy does it, because a deep one
exhausts the stack.
"""

import math
import os
import re
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

from clipcap.data.errors import SourceError, one_line, unreadable
from clipcap.data.files import open_file

if TYPE_CHECKING:
    from numpy.typing import NDArray

_MAGIC = b"\x93NUMPY"
_MAX_HEADER = 1 << 16  # bytes
_MAX_DIMENSIONS = 32
_DTYPE = re.compile(rb"[\"']descr[\"']\s*:\s*[\"']([<>|=]?[biufSU]\d{1,9})[\"']")
_ORDER = re.compile(rb"[\"']fortran_order[\"']\s*:\s*(True|False)")
_SHAPE = re.compile(rb"[\"']shape[\"']\s*:\s*\(([\d\s,L]*)\)")
# Deflate packs zeros a thousand times smaller, embeddings hardly, and names of one width up to a few hundred times.
_MOST_RATIO, _MOST_BYTES = 250, 1 << 26
_PIECE = 1 << 24  # bytes that are read at once


class Header(NamedTuple):
    """What an array is: its shape and dtype, and whether the first index changes fastest (Fortran) in the file."""

    shape: tuple[int, ...]
    dtype: Any
    fortran: bool


class Arrays:
    """The arrays of an open `.npz` by name, or the only one of a `.npy` under the name "".

    Attributes:
        names: of the arrays.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._archive: zipfile.ZipFile | None = None
        self._members: dict[str, zipfile.ZipInfo] = {}
        if file.read(len(_MAGIC)) != _MAGIC:
            self._archive = zipfile.ZipFile(file)
            members = [member for member in self._archive.infolist() if member.filename.endswith(".npy")]
            self._members = {member.filename.removesuffix(".npy"): member for member in members}
        file.seek(0)
        self.names = list(self._members) if self._archive is not None else [""]

    def header(self, name: str) -> Header:
        """Return the header of an array."""
        with self._open(name) as (file, size):
            return read_header(file, size)

    def __getitem__(self, name: str) -> "NDArray[Any]":
        """Return an array (any shape; a dtype of numbers or texts)."""
        with self._open(name) as (file, size):
            return _read_array(file, size)

    @contextmanager
    def _open(self, name: str) -> "Iterator[tuple[Any, int]]":
        """Open an array, and find its size in bytes."""
        if self._archive is None:
            self._file.seek(0)
            yield self._file, os.fstat(self._file.fileno()).st_size
            return
        member = self._members[name]
        if member.file_size > _MOST_BYTES + _MOST_RATIO * member.compress_size:
            raise ValueError(f"{name} unpacks from {member.compress_size:,} to {member.file_size:,} bytes")
        with self._archive.open(member) as file:
            yield file, member.file_size


@contextmanager
def open_arrays(path: Path) -> "Iterator[Arrays]":
    """Open a `.npy` or `.npz`, which its content tells apart.

    Raises:
        SourceError: here or while it is open: the file cannot be read, or holds no arrays of numbers and texts.
    """
    try:
        with open_file(path) as file:
            yield Arrays(file)
    except SourceError:
        raise
    except OSError as error:
        raise unreadable(path, error, "give another file") from error
    except MemoryError as error:
        raise unreadable(path, error, "") from error
    except Exception as error:  # zipfile and the unpackers raise errors of many classes
        raise SourceError(f"{path} holds no arrays ({one_line(error)[:120]}); save them with numpy") from error


def read_header(file: Any, size: int) -> Header:
    """Read the header of an array, and leave the file at its first number.

    Args:
        file: open at its beginning.
        size: of the file in bytes.

    Raises:
        ValueError: it is no header, the array has another dtype than numbers and texts, or is larger than the file.
    """
    import numpy as np

    magic = file.read(8)
    length_bytes = 2 if magic[6:7] == b"\1" else 4
    length = int.from_bytes(file.read(length_bytes), "little")
    if magic[:6] != _MAGIC or magic[6:7] not in (b"\1", b"\2", b"\3") or length > _MAX_HEADER:
        raise ValueError("it has no header of numpy")
    text = file.read(length)
    dtype, order, shape = (pattern.search(text) for pattern in (_DTYPE, _ORDER, _SHAPE))
    if not (dtype and order and shape) or len(text) < length:
        raise ValueError(f"its header {text[:60]!r} is not that of an array of numbers or texts")
    try:
        kind = np.dtype(dtype[1].decode())
    except TypeError as error:
        raise ValueError(f"numpy has no dtype {dtype[1].decode()}") from error
    header = Header(tuple(int(number) for number in re.findall(rb"\d+", shape[1])), kind, order[1] == b"True")
    needed = math.prod(header.shape) * header.dtype.itemsize
    if not header.dtype.itemsize or len(header.shape) > _MAX_DIMENSIONS or max(header.shape, default=0) >= 1 << 62:
        raise ValueError(f"an array of {header.dtype} cannot have the shape {header.shape!s:.60}")
    if needed > size - 8 - length_bytes - length:
        fact = f"an array of {header.dtype} and shape {header.shape!s:.60}"
        raise ValueError(f"{fact} takes more than the {size:,} bytes of the file")
    return header


def _read_array(file: Any, size: int) -> "NDArray[Any]":
    import numpy as np

    header = read_header(file, size)
    flat = np.empty(math.prod(header.shape), dtype=header.dtype)
    numbers: Any = flat.view(np.uint8) if flat.size else b""
    content = memoryview(numbers)
    for start in range(0, len(content), _PIECE):
        piece = content[start : start + _PIECE]
        if file.readinto(piece) != len(piece):
            raise ValueError("the file ends before the array does")
    if header.dtype.kind == "U" and (flat.view(header.dtype.str[0] + "u4") > sys.maxunicode).any():
        raise ValueError("a text of it has a number that is no character")  # numpy would make a broken string of it
    return flat.reshape(header.shape, order="F" if header.fortran else "C")
