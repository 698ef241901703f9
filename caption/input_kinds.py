"""The kinds of inputs of a captioning run, each read and embedded in batches: images, rows in files, and caches."""

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch

from clipcap.caption.row_files import read_rows
from clipcap.data.errors import SourceError
from clipcap.data.image_store import ImageStore
from clipcap.data.records import SPLITS, storable
from clipcap.data.remote.images import RemoteImages
from clipcap.precompute.loading import Item, Loader
from clipcap.precompute.parallel import choose_workers, map_in_order

if TYPE_CHECKING:
    from clipcap.caption.captioner import Captioner


@dataclass(frozen=True, kw_only=True)
class Group:
    """Inputs that are captioned together.

    Attributes:
        names: of the inputs, as results name them: a path, a URL without its secrets, the `images/path` of a cached
            row, the name of a row, or `rows.npy[3]` if the file has no names.
        reasons: for each input None, or why it could not be read.
        images: the files, if the inputs are images in files; else empty.
        embedding: float32 (r, d) or (r, t, d) of the r inputs that could be read; None where the caller does not need
            the group.
    """

    names: list[str]
    reasons: list[str | None]
    images: list[Path]
    embedding: torch.Tensor | None


class InputSource(Protocol):
    """Consecutive inputs of one kind."""

    def groups(self, captioner: "Captioner", start: int) -> Iterator[Group]:
        """Read and embed the inputs in batches; groups that end before input `start` are not read."""

    def names(self) -> Iterator[str]:
        """The names of all inputs in order."""

    def count(self) -> int | None:
        """How many inputs there are; None where only reading all of them would tell."""

    def identity(self) -> object:
        """What tells these inputs from others, as JSON stores it."""


class ImageInputs:
    """Images in files.

    Args:
        paths: of the images in the store.
        store: has their content.
    """

    def __init__(self, paths: list[str], store: ImageStore) -> None:
        self.paths, self.store = paths, store

    def groups(self, captioner: "Captioner", start: int) -> Iterator[Group]:
        size = captioner.batch_size
        batches = [list(range(first, min(first + size, len(self.paths)))) for first in range(0, len(self.paths), size)]
        needed = [batch for batch in batches if batch[-1] >= start]
        for batch in batches[: len(batches) - len(needed)]:
            yield self._group(batch, [None] * len(batch), None)
        if not needed:
            return
        encoder = captioner.encoder
        height, width = encoder.preprocess["size"]
        loader = Loader(self.store, encoder.transform, (height, width))
        items = ([Item(self.paths[number]) for number in batch] for batch in needed)
        loaded = map_in_order(loader, items, choose_workers() if len(needed) > 1 else 0)
        for batch, (pixels, outcomes) in zip(needed, loaded, strict=True):
            reasons = [outcome if isinstance(outcome, str) else None for outcome in outcomes]
            nothing = torch.empty(0, *encoder.shape)
            yield self._group(batch, reasons, encoder.encode(pixels) if len(pixels) else nothing)

    def names(self) -> Iterator[str]:
        return map(self._name, self.paths)

    def count(self) -> int | None:
        return len(self.paths)

    def identity(self) -> object:
        digest = hashlib.sha256()
        for path in self.paths:
            digest.update(os.fsencode(path) + b"\0")
        return ["images", len(self.paths), digest.hexdigest()]

    def _group(self, batch: list[int], reasons: list[str | None], embedding: torch.Tensor | None) -> Group:
        paths = [self.paths[number] for number in batch]
        names = [self._name(path) for path in paths]
        return Group(names=names, reasons=reasons, images=self._files(paths), embedding=embedding)

    def _name(self, path: str) -> str:
        return storable(path)

    def _files(self, paths: list[str]) -> list[Path]:
        return [Path(path) for path in paths]


class RemoteImageInputs(ImageInputs):
    """Images behind URLs.

    Args:
        paths: their URLs.
        store: has their content.
    """

    def __init__(self, paths: list[str], store: RemoteImages) -> None:
        super().__init__(paths, store)
        self._shown = store.shown

    def _name(self, path: str) -> str:
        return storable(self._shown[path])

    def _files(self, paths: list[str]) -> list[Path]:
        return []


class RowInputs:
    """Embeddings in a file, one a row; or a single one.

    Args:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def groups(self, captioner: "Captioner", start: int) -> Iterator[Group]:
        rows, names = read_rows(self.path)
        shape = captioner.config.mapper.embedding_shape
        if rows.shape == shape:
            rows, names = rows[None], None
        if rows.shape[1:] != shape or not len(rows):
            size = ", ".join(map(str, shape))
            fact = f"{self.path} has the shape {rows.shape}"
            raise SourceError(f"{fact}; this model takes rows of {size} numbers, (n, {size})")
        for first in range(0, len(rows), captioner.batch_size):
            batch = range(first, min(first + captioner.batch_size, len(rows)))
            own = self._names(names, batch)
            labels = [f"row {number}" for number in batch] if names is None else own
            embedding = _finite(self.path, rows[first : batch.stop], labels) if batch.stop > start else None
            yield Group(names=own, reasons=[None] * len(own), images=[], embedding=embedding)

    def names(self) -> Iterator[str]:
        rows, names = read_rows(self.path)
        return iter(self._names(names, range(len(rows) if rows.ndim > 1 else 1)))

    def count(self) -> int | None:
        if self.path.suffix.lower() != ".npy":  # which alone is not read to be counted
            return None
        rows, _ = read_rows(self.path)
        return len(rows) if rows.ndim > 1 else 1

    def identity(self) -> object:
        return _file_identity(self.path)

    def _names(self, names: list[str] | None, rows: range) -> list[str]:
        if names is None:
            return [f"{storable(str(self.path))}[{number}]" for number in rows]
        return [storable(names[number]) for number in rows]


class CachedRowInputs:
    """The embeddings of a cache.

    Args:
        path: the index, or one shard.
        split: the only split to caption; None for all.
    """

    def __init__(self, path: Path, split: str | None) -> None:
        self.path, self.split = path, split

    def groups(self, captioner: "Captioner", start: int) -> Iterator[Group]:
        cache = captioner.open_cache(self.path)
        found = 0
        splits: set[int] = set()
        for tables in cache.tables():
            splits.update(tables.split.tolist())
            chosen = np.flatnonzero(self._chosen(tables.split))
            for first in range(0, len(chosen), captioner.batch_size):
                batch = chosen[first : first + captioner.batch_size]
                found += len(batch)
                labels = [f"row {number}" for number in batch]
                embedding = _finite(self.path, tables.values(batch), labels) if found > start else None
                names = [tables.path[row] for row in batch]
                yield Group(names=names, reasons=[None] * len(names), images=[], embedding=embedding)
        if not found:
            present = ", ".join(SPLITS[number] for number in sorted(splits))
            fact = f"{self.path} has no images"
            raise SourceError(fact + (f" of `split` {self.split}; it has {present}" if present else ""))

    def names(self) -> Iterator[str]:
        from clipcap.data.cache.index import Cache

        for tables in Cache.open(self.path).tables(embeddings=False):
            for row in np.flatnonzero(self._chosen(tables.split)):
                yield tables.path[row]

    def count(self) -> int | None:
        from clipcap.data.cache.index import Cache
        from clipcap.data.cache.shard import read_summary

        cache = Cache.open(self.path)
        if self.split is None:
            return cache.images
        return sum(read_summary(shard.path)[0].count(self.split) for shard in cache.shards)

    def identity(self) -> object:
        return _file_identity(self.path)

    def _chosen(self, split: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        return np.ones(len(split), dtype=bool) if self.split is None else split == SPLITS.index(self.split)


def _file_identity(path: Path) -> object:
    status = path.stat() if path.exists() else None
    return [str(path), status and status.st_size, status and status.st_mtime_ns]


def _finite(path: Path, rows: np.ndarray[Any, Any], labels: Sequence[str]) -> torch.Tensor:
    """Convert embeddings (n, d) or (n, t, d) to float32; the error names the first of `labels` that is not finite."""
    with np.errstate(over="ignore"):  # numbers that are too large become infinite, and are found below
        rows = rows.astype(np.float32)
    bad = np.flatnonzero(~np.isfinite(rows).reshape(len(rows), -1).all(axis=1))
    if len(bad):
        raise SourceError(f"{path}: {labels[bad[0]]} holds values that are not finite; leave it out")
    return torch.from_numpy(rows)
