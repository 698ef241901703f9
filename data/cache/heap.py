"""Checks the heaps of a file of format 1, in which HDF5 keeps strings of variable length.

A heap is a list of objects, each with its size. A damaged size of 0 leads from an object to itself: HDF5 itself then
never ends. So the heaps are walked through here before HDF5 reads a string; format 2 has no such strings.

    GCOL 1 000 | size | index, references, 0000, size, data | ... | 0, .., size of the free space, header included
    4    1 3     8      2      2           4     8                  2      8

Source: "HDF5 File Format Specification Version 3.0", III.E, Disk Format: Level 1E - Global Heap.
"""

import mmap
import struct
from functools import lru_cache
from pathlib import Path

from clipcap.data.files import open_file

_HEADER = 16  # bytes of the header of a heap, and of an object's
_START = b"GCOL\x01\0\0\0"


def check_heaps(path: Path) -> None:
    """Walk through all heaps of a file. Its content is not read again while its size and time stay.

    Raises:
        OSError: it cannot be read.
        ValueError: a heap is damaged.
    """
    status = path.stat()
    _check(path, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=4096)
def _check(path: Path, size: int, time: int) -> None:
    with open_file(path) as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        start = content.find(_START)
        while start >= 0:
            _walk(content, start)
            start = content.find(_START, start + 1)


def _walk(content: mmap.mmap, start: int) -> None:
    """Go from object to object of a heap, as HDF5 does."""
    (size,) = struct.unpack_from("<Q", content, start + 8) if start + _HEADER <= len(content) else (0,)
    end, position = start + size, start + _HEADER
    if end > len(content):
        raise ValueError("a heap of strings reaches beyond the file")
    while position + _HEADER <= end:
        index, _, _, length = struct.unpack_from("<HHIQ", content, position)
        step = _HEADER + -(-length // 8) * 8 if index else length
        if step == 0 or position + step > end:
            raise ValueError("a heap of strings is damaged")
        position += step
