"""One shard of a cache: its tables in memory, and the file they are written to and read from.

FORMAT.md is the specification.
"""

import hashlib
import io
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from clipcap.data.atomic import write_file
from clipcap.data.errors import CacheError, DamagedCacheError, one_line
from clipcap.data.records import SPLITS

FORMAT = "clipcap-cache"
FORMAT_VERSION = 1
AGAIN = "run the clipcap-precompute command that made it again, it makes only what is missing"

_STRING = h5py.string_dtype()
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True)
class ShardTables:
    """All rows of one shard. n pictures, m captions, f failures; numpy arrays, strings as lists.

    Attributes:
        embedding: float16 (n, d), or (n, t, d).
        id, path: n strings.
        split: uint8 (n), an index into `SPLITS`.
        first_caption: int64 (n + 1).
        text: m strings.
        first_token: int64 (m + 1).
        token: uint16 or uint32, the tokens of all captions, each with end-of-text at its end.
        failure_path, failure_reason: f strings.
    """

    embedding: NDArray[np.float16]
    id: list[str]
    path: list[str]
    split: NDArray[np.uint8]
    first_caption: NDArray[np.int64]
    text: list[str]
    first_token: NDArray[np.int64]
    token: NDArray[np.unsignedinteger[Any]]
    failure_path: list[str]
    failure_reason: list[str]

    @property
    def counts(self) -> tuple[int, int, int]:
        """Pictures, captions, tokens."""
        return len(self.id), len(self.text), len(self.token)

    def content(self) -> str:
        """The SHA-256 over all tables, as FORMAT.md defines it."""
        digest = hashlib.sha256()
        for name, attribute in sorted(_DATASETS.items()):
            table = getattr(self, attribute)
            if isinstance(table, list):
                digest.update(f"{name}\0str\0{len(table)}\0".encode())
                for text in table:
                    data = text.encode()
                    digest.update(len(data).to_bytes(8, "little") + data)
            else:
                shape = ",".join(map(str, table.shape))
                digest.update(f"{name}\0{table.dtype.newbyteorder('<').str}\0{shape}\0".encode())
                digest.update(np.ascontiguousarray(table, table.dtype.newbyteorder("<")).tobytes())
        return digest.hexdigest()

    def problem(self) -> str | None:
        """What is inconsistent between the tables, or None."""
        images, captions, tokens = self.counts
        if not len(self.embedding) == len(self.path) == len(self.split) == images:
            return "the tables of pictures have different lengths"
        if len(self.failure_path) != len(self.failure_reason):
            return "the tables of failures have different lengths"
        offsets = [("images/first_caption", self.first_caption, images, captions)]
        offsets.append(("captions/first_token", self.first_token, captions, tokens))
        for name, first, rows, end in offsets:
            if len(first) != rows + 1 or first[0] != 0 or first[-1] != end or (np.diff(first) < 0).any():
                return f"{name} does not lead through its rows"
        if images and self.split.max() >= len(SPLITS):
            return "images/split holds an unknown split"
        return None


_DATASETS = {
    "images/embedding": "embedding",
    "images/id": "id",
    "images/path": "path",
    "images/split": "split",
    "images/first_caption": "first_caption",
    "captions/text": "text",
    "captions/first_token": "first_token",
    "captions/token": "token",
    "failures/path": "failure_path",
    "failures/reason": "failure_reason",
}
assert set(_DATASETS.values()) == {field.name for field in fields(ShardTables)}


def write_shard(path: Path, tables: ShardTables, fingerprint: str, number: int) -> str:
    """Write a shard, whole or not at all, and return its content sum.

    Args:
        path: where to; an existing file is replaced.
        tables: the rows.
        fingerprint: the recipe as JSON.
        number: of the shard in its cache, from 0.

    Raises:
        ClipCapError: the file cannot be written.
    """
    content = tables.content()
    # HDF5 builds the file in memory: a full disk is then an ordinary error of an ordinary file.
    image = io.BytesIO()
    with h5py.File(image, "w") as file:
        mark(file, fingerprint)
        file.attrs["shard"] = number
        for name, attribute in _DATASETS.items():
            table = getattr(tables, attribute)
            if isinstance(table, list):
                file.create_dataset(name, data=np.array(table, dtype=object), dtype=_STRING)
            elif attribute == "embedding":
                rows = max(1, _CHUNK_BYTES // max(1, table[:1].nbytes))
                chunks = (min(rows, max(1, len(table))), *table.shape[1:])
                file.create_dataset(name, data=table, chunks=chunks, maxshape=(None, *table.shape[1:]), fletcher32=True)
            else:
                file.create_dataset(name, data=table)
        file["images/split"].attrs["names"] = list(SPLITS)
        file.attrs["content"] = content
    write_file(path, image.getvalue())
    return content


def read_shard(path: Path) -> ShardTables:
    """Read all tables of a shard and check that they belong together (not their sum: that is `--verify`).

    Raises:
        CacheError: missing, damaged, foreign, or inconsistent.
    """
    with open_hdf5(path) as file:
        try:
            tables = ShardTables(**{attribute: _read(file[name]) for name, attribute in _DATASETS.items()})
        except (OSError, KeyError, ValueError, RuntimeError) as error:
            raise DamagedCacheError(f"{path} is damaged ({one_line(error)}); {AGAIN}") from error
    problem = tables.problem()
    if problem:
        raise DamagedCacheError(f"{path} is damaged ({problem}); {AGAIN}")
    return tables


def read_summary(path: Path) -> tuple[list[str], list[tuple[str, str]]]:
    """The split of each picture of a shard, and (path, reason) of those that failed; reads no embeddings.

    Raises:
        CacheError: missing, damaged or foreign.
    """
    with open_hdf5(path) as file:
        try:
            splits = [SPLITS[number] for number in file["images/split"][:].tolist()]
            failed = zip(_read(file["failures/path"]), _read(file["failures/reason"]), strict=True)
            return splits, list(failed)
        except (OSError, KeyError, ValueError, IndexError, RuntimeError) as error:
            raise DamagedCacheError(f"{path} is damaged ({one_line(error)}); {AGAIN}") from error


def open_hdf5(path: Path) -> h5py.File:
    """Open an index or a shard for reading, after checking that it is one of ours, of a version that we know.

    Raises:
        CacheError: it does not exist, is not HDF5, is not ours, or is of an unknown version.
        DamagedCacheError: it is truncated or broken.
    """
    if not path.is_file():
        raise CacheError(f"{path} does not exist; make a cache with: clipcap-precompute DATASET -o {path.name}")
    try:
        if not h5py.is_hdf5(path):
            raise CacheError(
                f"{path} is not an HDF5 file ({path.stat().st_size:,} bytes); give the cache.h5 of stage 1"
            )
        # Locks are for writers; ours never write in place, and a read-only or network folder may refuse them.
        file = h5py.File(path, "r", locking=False)
    except OSError as error:
        raise DamagedCacheError(f"{path} is truncated or damaged ({one_line(error)}); {AGAIN}") from error
    try:
        check_mark(path, file)
    except BaseException:
        file.close()
        raise
    return file


def mark(file: h5py.File, fingerprint: str) -> None:
    """Write the root attributes that index and shards share."""
    file.attrs["format"] = FORMAT
    file.attrs["format_version"] = FORMAT_VERSION
    file.attrs["fingerprint"] = fingerprint


def check_mark(path: Path, file: h5py.File) -> None:
    """Check the root attributes. Raises CacheError where the file is foreign or of an unknown version."""
    if file.attrs.get("format") != FORMAT:
        raise CacheError(f"{path} is an HDF5 file but not a clipcap cache; give the cache.h5 of stage 1")
    version = file.attrs.get("format_version")
    if version != FORMAT_VERSION:
        raise CacheError(
            f"{path} is a cache of format version {version}, this program reads version {FORMAT_VERSION}; install a "
            "newer one: pip install --upgrade clipcap-cache"
        )
    if "fingerprint" not in file.attrs:
        raise DamagedCacheError(f"{path} has no fingerprint, so nobody knows what made it; {AGAIN}")


def _read(dataset: h5py.Dataset) -> Any:
    if h5py.check_string_dtype(dataset.dtype):
        return list(dataset.asstr()[:])
    return dataset[:]
