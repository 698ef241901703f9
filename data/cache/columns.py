"""Tables in an open HDF5 file: numbers as a dataset, texts as the bytes of all of them and where each one begins.

    captions/text/byte     [ a   d o g d o g s ]     uint8 (b), UTF-8
    captions/text/first    [ 0         5       9 ]   int64 (n + 1): text i is byte[first[i] : first[i + 1]]

HDF5 follows links into other files, reads rows that are missing as zeros, and never ends on damaged strings of variable
length. So a table is read only if all of its rows are in the file itself, and takes no more memory than the file has
bytes. Format 1 had strings of variable length: see `heap.py`.
"""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

_FLETCHER32 = 3  # HDF5's number of the only filter that the program uses
STRINGS_OF_VARIABLE_LENGTH = 1  # the format version that had them
_STRINGS = 1024  # of them, read at a time
_STRING_BYTES = 16  # of one of them in the dataset: its length, and where its text is
OFFSETS = "<i8"


def has(file: h5py.File, name: str) -> bool:
    """Whether a file has a group or a dataset. What a link leads to is not looked at."""
    parent, _, last = name.rpartition("/")
    group = _find(file, parent) if parent else file
    return isinstance(group, h5py.Group) and group.get(last, getlink=True) is not None


def numbers(file: h5py.File, name: str, dtypes: Sequence[str], ranks: Sequence[int] = (1,)) -> h5py.Dataset:
    """Return a dataset of numbers, of which all rows are in the file.

    Args:
        file: an open file.
        name: of the dataset, with the groups that it is in.
        dtypes: the allowed ones, as numpy spells them.
        ranks: the allowed numbers of dimensions.

    Raises:
        KeyError: there is no such dataset.
        ValueError: it has another dtype or rank, its rows are missing or elsewhere, or it is larger than the file.
    """
    found = _dataset(file, name)
    if found.dtype.str not in dtypes or found.ndim not in ranks:
        raise ValueError(f"{name} is not the table that FORMAT.md describes")
    size = found.dtype.itemsize
    if math.prod(found.shape) * size > file.id.get_filesize():
        raise ValueError(f"{name} has {' x '.join(map(str, found.shape))} numbers, more than the file can hold")
    if not _is_whole(found):
        raise ValueError(f"{name} lacks rows")
    return found


def read_texts(file: h5py.File, name: str) -> list[str]:
    """Read texts.

    Raises:
        KeyError: there are none.
        ValueError: they are damaged, or not in the file.
    """
    if file.attrs["format_version"] == STRINGS_OF_VARIABLE_LENGTH:
        return _read_strings(file, name)
    first = numbers(file, f"{name}/first", (OFFSETS,))[:]
    data = numbers(file, f"{name}/byte", ("|u1",))[:].tobytes()
    if not is_offsets(first, len(first) - 1, len(data)):
        raise ValueError(f"{name}/first does not hold increasing offsets")
    ends = first.tolist()
    return [data[start:end].decode() for start, end in itertools.pairwise(ends)]


def write_texts(file: h5py.File, name: str, texts: Sequence[str]) -> None:
    """Write n texts."""
    encoded = [text.encode() for text in texts]
    file[f"{name}/byte"] = np.frombuffer(b"".join(encoded), np.uint8)
    file[f"{name}/first"] = np.cumsum([0, *map(len, encoded)], dtype=OFFSETS)


def is_offsets(first: NDArray[np.int64], rows: int, end: int) -> bool:
    """Whether `first` leads from each of `rows` rows to its part of `end` entries: it ascends from 0 to `end`.

    Neighbours are compared, since a difference of two of them can wrap around.
    """
    if len(first) != rows + 1 or first[0] != 0 or first[-1] != end:
        return False
    return not bool((first[1:] < first[:-1]).any())


def write_attribute(file: h5py.File, name: str, text: str) -> None:
    """Write an attribute of the root, ASCII."""
    file.attrs[name] = np.bytes_(text.encode("ascii"))


def read_attribute(file: h5py.File, name: str) -> str:
    """Read a text attribute of the root.

    Raises:
        KeyError: there is none.
        ValueError: it is no text.
    """
    value: Any = file.attrs[name]
    text = value.decode() if isinstance(value, bytes) else value
    if not isinstance(text, str):
        raise ValueError(f"the attribute {name} is no text")
    return text


def _find(file: h5py.File, name: str) -> h5py.Group | h5py.Dataset:
    """Return a group or a dataset of the file itself: no link is followed, neither into this file nor another one."""
    found = file
    parts = name.split("/")
    for depth, part in enumerate(parts, 1):
        if not isinstance(found, h5py.Group):
            raise KeyError(f"{name} does not exist")
        link = found.get(part, getlink=True)
        if link is None:
            raise KeyError(f"{name} does not exist")
        if not isinstance(link, h5py.HardLink):
            raise ValueError(f"{'/'.join(parts[:depth])} is a link, so {name} has its rows elsewhere")
        found = found[part]
    return found


def _dataset(file: h5py.File, name: str) -> h5py.Dataset:
    found = _find(file, name)
    if not isinstance(found, h5py.Dataset):
        raise ValueError(f"{name} is no table")
    if found.is_virtual or found.external:
        raise ValueError(f"{name} has its rows in another file")
    return found


def _is_whole(found: h5py.Dataset) -> bool:
    """Whether all rows were written. HDF5 gives others as zeros."""
    size = found.dtype.itemsize
    if found.chunks is None:
        return bool(found.id.get_storage_size() == math.prod(found.shape) * size)
    properties = found.id.get_create_plist()
    filters = [properties.get_filter(number)[0] for number in range(properties.get_nfilters())]
    if filters not in ([], [_FLETCHER32]):
        return False
    if 0 not in found.shape and math.prod(found.chunks) * size > found.file.id.get_filesize():
        return False  # a chunk is in memory as a whole
    chunks = math.prod(math.ceil(rows / part) for rows, part in zip(found.shape, found.chunks, strict=True))
    return bool(found.id.get_num_chunks() == chunks)


def _read_strings(file: h5py.File, name: str) -> list[str]:
    """Read strings of variable length, as format 1 has them. Several may be the same bytes, which takes memory."""
    found = _dataset(file, name)
    whole = found.chunks is None and found.id.get_storage_size() == found.size * _STRING_BYTES
    if not whole or not h5py.check_string_dtype(found.dtype) or found.ndim != 1:
        raise ValueError(f"{name} is not the table that FORMAT.md describes")
    texts: list[str] = []
    left = file.id.get_filesize()
    for start in range(0, len(found), _STRINGS):
        texts.extend(found.asstr()[start : start + _STRINGS])
        left -= sum(map(len, texts[start:]))
        if left < 0:
            raise ValueError(f"{name} has more text than the file has bytes")
    return texts
