"""Writes and reads one shard of a cache: tables of images, captions and tokens. FORMAT.md specifies it.

An image has any number of captions, and a caption any number of tokens. The tables are flat, and offsets lead from
each image to its captions and from each caption to its tokens. Two images, the first with two captions:

    images/id             [ dog            cat ]
    images/first_caption  [ 0              2           3 ]     captions of image i: first_caption[i : i + 2]
                            |              |           |
    captions/text         [ "a dog" "dogs" "a cat" ]
    captions/first_token  [ 0       3      5           8 ]     tokens of caption j: first_token[j : j + 2]
                            |       |      |           |
    captions/token        [ 64 3290 E      22242 E ... ]       E is the end-of-text token, the last of every caption

Where the cache has embeddings of several encoders, those of the first are in `images/`, and those of encoder 1, 2, ...
in `encoders/1/`, `encoders/2/`, ...
"""

import hashlib
import io
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from clipcap.data.cache.atomic import write_file
from clipcap.data.cache.columns import has, is_offsets, numbers, read_texts, write_attribute, write_texts
from clipcap.data.cache.encoded import Encoded
from clipcap.data.cache.hdf5 import AGAIN, further_fingerprints, mark, open_hdf5
from clipcap.data.cache.scale import is_scale
from clipcap.data.errors import DamagedCacheError
from clipcap.data.records import SPLITS

_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True)
class ShardTables(Encoded):
    """All rows of one shard: n images, v views, m captions, k tokens, f failures. The module's docstring draws them.

    Those of `Encoded` are of one encoder, the first unless another one was chosen.

    Attributes:
        id, path: n strings, the image's id in the dataset, and its file relative to the dataset's root.
        split: uint8 (n), an index into `SPLITS`.
        first_caption: int64 (n + 1), the offset of each image's captions in `text`.
        text: m strings, the captions as the dataset has them.
        first_token: int64 (m + 1), the offset of each caption's tokens in `token`.
        token: uint16 or uint32 (k), the tokens of all captions; the last of each caption is end-of-text.
        failure_path, failure_reason: f strings, the images that could not be read, and why.
        sum: uint8 (n, 16), BLAKE2b of each image's file; None if the images are not known, as in version 0.1.
        file_size, file_time: int64 (n), bytes and last change, in nanoseconds since 1970, of the file that holds each
            image, which is a tar or a table where the image is inside of one; None where `sum` is None.
        further: the embeddings of encoders 1, 2, ... of the same images.
    """

    id: list[str]
    path: list[str]
    split: NDArray[np.uint8]
    first_caption: NDArray[np.int64]
    text: list[str]
    first_token: NDArray[np.int64]
    token: NDArray[np.unsignedinteger[Any]]
    failure_path: list[str]
    failure_reason: list[str]
    sum: NDArray[np.uint8] | None = None
    file_size: NDArray[np.int64] | None = None
    file_time: NDArray[np.int64] | None = None
    further: tuple[Encoded, ...] = ()

    @property
    def counts(self) -> tuple[int, int, int]:
        """The numbers of images, captions and tokens."""
        return len(self.id), len(self.text), len(self.token)

    def of_encoder(self, number: int) -> "ShardTables":
        """Return the same tables with the embeddings of one encoder, and none of the others."""
        return replace(self, further=(), **(vars(self.further[number - 1]) if number else {}))

    def content(self) -> str:
        """Return the SHA-256 over all tables that FORMAT.md defines, as hexadecimal digits."""
        digest = hashlib.sha256()
        for name, attribute, table in sorted(self.datasets(), key=lambda dataset: dataset[0]):
            if attribute in _UNHASHED:
                continue
            if isinstance(table, list):
                digest.update(f"{name}\0str\0{len(table)}\0".encode())
                for text in table:
                    data = text.encode()
                    digest.update(len(data).to_bytes(8, "little") + data)
            else:
                shape = ",".join(map(str, table.shape))
                digest.update(f"{name}\0{table.dtype.newbyteorder('<').str}\0{shape}\0".encode())
                digest.update(np.ascontiguousarray(table, table.dtype.newbyteorder("<")).tobytes())
        for number, encoded in enumerate((self, *self.further)):
            if encoded.scale != 1:
                name = f"encoders/{number}/scale" if number else "scale"
                digest.update(f"{name}\0".encode() + struct.pack("<d", encoded.scale))
        return digest.hexdigest()

    def datasets(self) -> Iterator[tuple[str, str, Any]]:
        """Yield the name of each dataset in the file, the name of its attribute here, and its rows."""
        found = [(name, attribute, getattr(self, attribute)) for name, attribute in _DATASETS.items()]
        for number, encoded in enumerate(self.further, 1):
            found += [(f"{group_of(number)}/{name}", name, getattr(encoded, name)) for name in _EMBEDDINGS]
        return (dataset for dataset in found if dataset[2] is not None)

    def problem(self) -> str | None:
        """Return what is inconsistent between the tables, or None."""
        images, captions, tokens = self.counts
        for name, kinds in _KINDS.items():
            column = getattr(self, name)
            if column is None and name in _OPTIONAL:
                continue
            if not isinstance(column, np.ndarray) or column.dtype.str not in kinds or column.ndim not in _RANKS[name]:
                return f"{name} is not the table that FORMAT.md describes"
        if not all(isinstance(getattr(self, name), list) for name in set(_DATASETS.values()) - set(_KINDS)):
            return "a table of strings has another type"
        if not is_scale(self.scale):
            return f"the scale {self.scale} is not a power of two from 1 to 2^16"
        if not len(self.embedding) == len(self.path) == len(self.split) == images:
            return "the tables of images have different lengths"
        if len(self.failure_path) != len(self.failure_reason):
            return "the tables of failures have different lengths"
        offsets = [("images/first_caption", self.first_caption, images, captions)]
        offsets.append(("captions/first_token", self.first_token, captions, tokens))
        if (self.view is None) != (self.first_view is None):
            return "one of the two tables of views is missing"
        if self.view is not None and self.first_view is not None:
            if self.view.shape[1:] != self.embedding.shape[1:]:
                return "images/view has rows of another shape than images/embedding"
            offsets.append(("images/first_view", self.first_view, images, len(self.view)))
        if len({table is None for table in (self.sum, self.file_size, self.file_time)}) > 1:
            return "one of the tables of the images' files is missing"
        if self.sum is not None and self.sum.shape[1] != SUM_BYTES:
            return f"images/sum has {self.sum.shape[1]} bytes for an image, not {SUM_BYTES}"
        if any(table is not None and len(table) != images for table in (self.sum, self.file_size, self.file_time)):
            return "the tables of the images' files have other lengths"
        for name, first, rows, end in offsets:
            if not is_offsets(first, rows, end):
                return f"{name} does not hold increasing offsets of its rows"
        if images and self.split.max() >= len(SPLITS):
            return "images/split holds an unknown split"
        for number in range(1, len(self.further) + 1):
            problem = self.of_encoder(number).problem()
            if problem:
                return f"encoder {number}: {problem}"
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
    "images/view": "view",
    "images/first_view": "first_view",
    "images/sum": "sum",
    "images/file_size": "file_size",
    "images/file_time": "file_time",
}
_SCALED = ("embedding", "view")
_OPTIONAL = ("view", "first_view", "sum", "file_size", "file_time")
_VIEWS = ("view", "first_view")
_EMBEDDINGS = ("embedding", *_VIEWS)
_UNHASHED = ("file_size", "file_time")  # of one copy of the dataset; another copy makes the same cache
SUM_BYTES = 16
_KINDS = {
    "embedding": ("<f2",),
    "split": ("|u1",),
    "first_caption": ("<i8",),
    "first_token": ("<i8",),
    "token": ("<u2", "<u4"),
    "view": ("<f2",),
    "first_view": ("<i8",),
    "sum": ("|u1",),
    "file_size": ("<i8",),
    "file_time": ("<i8",),
}
_RANKS = dict.fromkeys(_KINDS, (1,)) | {"embedding": (2, 3), "view": (2, 3), "sum": (2,)}
assert {*_DATASETS.values(), "scale", "further"} == {field.name for field in fields(ShardTables)}


def group_of(encoder: int) -> str:
    """Return the group of a shard that has the embeddings of an encoder, by the encoder's number in the cache."""
    return f"encoders/{encoder}" if encoder else "images"


def write_shard(path: Path, tables: ShardTables, fingerprint: str, number: int, further: Sequence[str] = ()) -> str:
    """Write a shard, completely or not at all, and return its content hash.

    Args:
        path: its file; an existing file is replaced.
        tables: the rows.
        fingerprint: the fingerprint as JSON.
        number: the number of the shard in its cache, from 0.
        further: the fingerprint of each encoder in `tables.further`.

    Raises:
        ClipCapError: the file cannot be written.
    """
    assert len(further) == len(tables.further)
    scale = {group_of(k): float(encoded.scale) for k, encoded in enumerate((tables, *tables.further))}
    content = tables.content()
    # HDF5 builds the file in memory, so that a full disk is an ordinary OSError when the bytes are written.
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        mark(file, fingerprint, further)
        file.attrs["shard"] = number
        for name, attribute, table in tables.datasets():
            if isinstance(table, list):
                write_texts(file, name, table)
            elif attribute in _SCALED:
                rows = max(1, _CHUNK_BYTES // max(1, table[:1].nbytes))
                chunks = (min(rows, max(1, len(table))), *table.shape[1:])
                stored = file.create_dataset(
                    name, data=table, chunks=chunks, maxshape=(None, *table.shape[1:]), fletcher32=True
                )
                if scale[name.rpartition("/")[0]] != 1:
                    stored.attrs["scale"] = scale[name.rpartition("/")[0]]
            else:
                file.create_dataset(name, data=table)
        file["images/split"].attrs["names"] = np.array(SPLITS, "S")
        write_attribute(file, "content", content)
    write_file(path, buffer.getvalue())
    return content


def read_shard(path: Path, *, embeddings: bool = True, encoder: int | None = None) -> ShardTables:
    """Read the tables of a shard and check that they are consistent. `Cache.verify` checks their hash.

    Args:
        path: the file of the shard.
        embeddings: whether embeddings are read; without them `embedding` is float16 (n, 0) or (n, 0, 0), and there are
            no views.
        encoder: the number of the one encoder whose embeddings are read; by default those of all are.

    Raises:
        CacheError: the shard is missing, damaged, inconsistent, or not of this program.
    """
    with open_hdf5(path) as file:
        names = {attribute: name for name, attribute in _DATASETS.items() if attribute not in _EMBEDDINGS}
        names = {attribute: name for attribute, name in names.items() if attribute not in _OPTIONAL or has(file, name)}
        columns: dict[str, Any] = {
            attribute: table(file, name)[:] if attribute in _KINDS else read_texts(file, name)
            for attribute, name in names.items()
        }
        every = range(1 + len(further_fingerprints(file)))
        encoded = [_read_encoded(file, number, embeddings) for number in (every if encoder is None else [encoder])]
        tables = ShardTables(**columns, **vars(encoded[0]), further=tuple(encoded[1:]))
    problem = tables.problem()
    if problem:
        raise DamagedCacheError(f"{path} is damaged ({problem}); delete it and {AGAIN}")
    return tables


def table(file: h5py.File, name: str) -> h5py.Dataset:
    """Return a dataset of numbers of an open shard, which has the dtype and the rank that FORMAT.md says.

    Raises:
        KeyError, ValueError: as `numbers`.
    """
    attribute = _DATASETS.get(name, name.rpartition("/")[2])  # those of further encoders have the names of ours
    return numbers(file, name, _KINDS[attribute], _RANKS[attribute])


def read_embeddings(path: Path, first: int, last: int, encoder: int = 0) -> tuple[NDArray[np.float16], float]:
    """Read the embeddings of images `first` to `last` - 1 of a shard, by the encoder of a number.

    Returns:
        float16 (last - first, d), or (.., t, d): the embeddings divided by the scale of the shard; and the scale.

    Raises:
        CacheError: the shard is missing, damaged, or not of this program.
    """
    with open_hdf5(path) as file:
        return table(file, f"{group_of(encoder)}/embedding")[first:last], _read_scale(file, encoder)


def read_views(path: Path, first: int, last: int, encoder: int = 0) -> tuple[NDArray[np.float16], NDArray[np.int64]]:
    """Read the views of images `first` to `last` - 1 of a shard: float16 (v, d) or (v, t, d), and each image's first.

    They are by the encoder of a number, and divided by the scale of the shard, which is that of `read_embeddings`.

    Raises:
        CacheError: the shard is missing, damaged, or not of this program.
    """
    with open_hdf5(path) as file:
        group = group_of(encoder)
        offsets: NDArray[np.int64] = table(file, f"{group}/first_view")[:]
        view = table(file, f"{group}/view")
        if not is_offsets(offsets, len(offsets) - 1, len(view)):
            raise ValueError(f"{group}/first_view does not hold increasing offsets")
        start, end = offsets[first], offsets[last]
        return view[start:end], offsets[first:last] - start


def read_summary(path: Path) -> tuple[list[str], list[tuple[str, str]]]:
    """Read the split of each image of a shard, and (path, reason) of each failed one, without embeddings.

    Raises:
        CacheError: the shard is missing, damaged, or not of this program.
    """
    with open_hdf5(path) as file:
        splits = [SPLITS[number] for number in table(file, "images/split")[:].tolist()]
        failed = zip(read_texts(file, "failures/path"), read_texts(file, "failures/reason"), strict=True)
        return splits, list(failed)


def _read_encoded(file: h5py.File, encoder: int, embeddings: bool) -> Encoded:
    """Read the embeddings of an encoder from an open shard, or their shape alone."""
    group = group_of(encoder)
    stored, scale = table(file, f"{group}/embedding"), _read_scale(file, encoder)
    if not embeddings:
        nothing: NDArray[np.float16] = np.empty((stored.shape[0], *[0] * (stored.ndim - 1)), dtype=stored.dtype)
        return Encoded(embedding=nothing, scale=scale)
    views = {name: table(file, f"{group}/{name}")[:] for name in _VIEWS if has(file, f"{group}/{name}")}
    return Encoded(embedding=stored[:], scale=scale, **views)


def _read_scale(file: h5py.File, encoder: int) -> float:
    """Read the scale of an encoder in an open shard. Raises ValueError if there are two, or it is none."""
    names = [f"{group_of(encoder)}/{name}" for name in _SCALED]
    found = sorted({_scale_of(table(file, name)) for name in names if has(file, name)})
    if len(found) > 1 or not is_scale(found[0]):
        raise ValueError(f"the scale {' and '.join(map(str, found))} is not one power of two from 1 to 2^16")
    return found[0]


def _scale_of(dataset: h5py.Dataset) -> float:
    if "scale" not in dataset.attrs:
        return 1.0
    if dataset.attrs.get_id("scale").dtype != np.dtype("<f8"):
        raise ValueError(f"the scale of {dataset.name} is no float64")
    return float(dataset.attrs["scale"])
