"""The HDF5 files of a cache, index and shards: marked as ours, and opened so that a broken one is an error of ours."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np

from clipcap.data.cache.columns import (
    STRINGS_OF_VARIABLE_LENGTH,
    has,
    read_attribute,
    read_texts,
    write_attribute,
    write_texts,
)
from clipcap.data.cache.heap import check_heaps
from clipcap.data.errors import CacheError, ClipCapError, DamagedCacheError, one_line
from clipcap.data.files import open_file

FORMAT = "clipcap-cache"
FORMAT_VERSION = 2  # what is written; FORMAT.md tells how 1 differs
FURTHER = "encoders/fingerprint"
AGAIN = "run the clipcap-precompute command that made this cache again: only missing shards are made"


@contextmanager
def open_hdf5(path: Path) -> Iterator[h5py.File]:
    """Open an index or a shard for reading, and check that this program wrote it in a format version that is known.

    Any other exception inside the block means that the file is damaged, and becomes a DamagedCacheError; but not where
    memory runs out, or where the bytes of the file cannot be read.

    Raises:
        CacheError: the file does not exist, cannot be read, is not HDF5, is not a cache, or has an unknown version.
        DamagedCacheError: the file is truncated or broken.
        MemoryError: there is not enough memory.
    """
    if path.is_dir():
        raise CacheError(f"{path} is a folder; give the cache.h5 in it")
    if not path.exists():
        raise CacheError(f"{path} does not exist; make a cache with: clipcap-precompute DATASET -o {path.name}")
    try:
        with open_file(path) as raw:
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
    except (ClipCapError, MemoryError):
        raise
    except Exception as error:  # broken files raise OSError, RuntimeError, KeyError, ValueError and more
        _check_readable(path)
        raise DamagedCacheError(f"{path} is truncated or damaged ({one_line(error)}); delete it and {AGAIN}") from error


def mark(file: h5py.File, fingerprint: str, further: Sequence[str] = ()) -> None:
    """Write what the index and the shards share: root attributes, and the fingerprints of further encoders."""
    write_attribute(file, "format", FORMAT)
    file.attrs["format_version"] = FORMAT_VERSION
    write_attribute(file, "fingerprint", fingerprint)
    if further:
        write_texts(file, FURTHER, further)


def further_fingerprints(file: h5py.File) -> list[str]:
    """Read the fingerprints of the encoders after the first, of an open index or shard; most have none.

    Raises:
        ValueError: they are damaged.
    """
    return read_texts(file, FURTHER) if has(file, FURTHER.partition("/")[0]) else []


def _check_mark(path: Path, file: h5py.File) -> None:
    """Check the root attributes. Raises CacheError if the file is not a cache or has an unknown version."""
    # Its type is looked at before its value is read, since it may be a string of another program's damaged file.
    known = "format_version" in file.attrs and file.attrs.get_id("format_version").dtype == np.dtype("<i8")
    version = file.attrs["format_version"] if known else None
    if version == STRINGS_OF_VARIABLE_LENGTH:
        check_heaps(path)
    if version is None or file.attrs.get("format") not in (FORMAT, FORMAT.encode()):
        raise CacheError(f"{path} is an HDF5 file but not a clipcap cache; give the cache.h5 of stage 1")
    if version == FORMAT_VERSION and any(file.attrs.get_id(name).dtype.hasobject for name in file.attrs):
        raise ValueError("an attribute of variable length, which this format has not")
    if version not in (STRINGS_OF_VARIABLE_LENGTH, FORMAT_VERSION):
        raise CacheError(
            f"{path} is a cache of format version {version}, this program reads up to version {FORMAT_VERSION}; "
            "install a newer one: pip install --upgrade clipcap-cache"
        )
    if "fingerprint" not in file.attrs:
        raise DamagedCacheError(f"{path} has no fingerprint; delete it and {AGAIN}")
    read_attribute(file, "fingerprint")


def _check_readable(path: Path) -> None:
    """Raise the CacheError of a file whose bytes cannot be read: it is not damaged, and must not be deleted."""
    try:
        with open_file(path) as file:
            while file.read(1 << 20):
                pass
    except OSError as error:
        raise CacheError(f"{path} cannot be read ({error.strerror}); try again when it can") from error
