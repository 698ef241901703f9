"""The HDF5 files of a cache, index and shards: marked as ours, and opened so that a broken one is an error of ours."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py

from clipcap.data.errors import CacheError, ClipCapError, DamagedCacheError, one_line

FORMAT = "clipcap-cache"
FORMAT_VERSION = 1
AGAIN = "run the clipcap-precompute command that made this cache again: only missing shards are made"


def read_table(file: h5py.File, name: str) -> Any:
    """Read a table of an open file, numbers as an array and strings as a list. `open_hdf5` states the errors."""
    dataset = table(file, name)
    return list(dataset.asstr()[:]) if h5py.check_string_dtype(dataset.dtype) else dataset[:]


def table(file: h5py.File, name: str) -> h5py.Dataset:
    """Return a table of an open file. A table with rows in another file is refused: HDF5 reads missing rows as zeros.

    Raises:
        ValueError: the rows are in another file.
    """
    dataset = file[name]
    if not isinstance(file.get(name, getlink=True), h5py.HardLink) or dataset.is_virtual or dataset.external:
        raise ValueError(f"{name} has its rows in another file")
    return dataset


@contextmanager
def open_hdf5(path: Path) -> Iterator[h5py.File]:
    """Open an index or a shard for reading, and check that this program wrote it in a format version that is known.

    Any other exception inside the block means that the file is damaged, and becomes a DamagedCacheError.

    Raises:
        CacheError: the file does not exist, cannot be opened, is not HDF5, is not a cache, or has an unknown version.
        DamagedCacheError: the file is truncated or broken.
    """
    if path.is_dir():
        raise CacheError(f"{path} is a folder; give the cache.h5 in it")
    if not path.exists():
        raise CacheError(f"{path} does not exist; make a cache with: clipcap-precompute DATASET -o {path.name}")
    try:
        with path.open("rb") as raw:
            size = raw.seek(0, 2)
    except OSError as error:
        raise CacheError(f"{path} cannot be opened ({error.strerror}); check its permissions") from error
    if size == 0:
        raise DamagedCacheError(f"{path} is not an HDF5 file (0 bytes); delete it and {AGAIN}")
    if not h5py.is_hdf5(path):
        raise CacheError(f"{path} is not an HDF5 file ({size:,} bytes); give the cache.h5 of stage 1")
    try:
        # No lock is needed, because files are never written in place. A read-only or network folder may refuse locks.
        with h5py.File(path, "r", locking=False) as file:
            _check_mark(path, file)
            yield file
    except ClipCapError:
        raise
    except Exception as error:  # broken files raise OSError, RuntimeError, KeyError, ValueError and more
        raise DamagedCacheError(f"{path} is truncated or damaged ({one_line(error)}); delete it and {AGAIN}") from error


def mark(file: h5py.File, fingerprint: str) -> None:
    """Write the root attributes that the index and the shards share."""
    file.attrs["format"] = FORMAT
    file.attrs["format_version"] = FORMAT_VERSION
    file.attrs["fingerprint"] = fingerprint


def _check_mark(path: Path, file: h5py.File) -> None:
    """Check the root attributes. Raises CacheError if the file is not a cache or has an unknown version."""
    if not isinstance(file.attrs.get("format"), str) or file.attrs["format"] != FORMAT:
        raise CacheError(f"{path} is an HDF5 file but not a clipcap cache; give the cache.h5 of stage 1")
    version = file.attrs.get("format_version")
    if version != FORMAT_VERSION:
        raise CacheError(
            f"{path} is a cache of format version {version}, this program reads version {FORMAT_VERSION}; install a "
            "newer one: pip install --upgrade clipcap-cache"
        )
    if "fingerprint" not in file.attrs:
        raise DamagedCacheError(f"{path} has no fingerprint; delete it and {AGAIN}")
