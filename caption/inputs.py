"""The inputs of a captioning run: images, folders, URLs, embeddings and caches, as a stream of batches in order."""

import glob
import hashlib
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urlsplit

import numpy as np
import torch

from clipcap.caption.images import is_captioned_image
from clipcap.caption.row_files import ROW_FILES, read_rows
from clipcap.data.command.progress import plural
from clipcap.data.errors import SourceError, UsageError
from clipcap.data.image_store import FolderStore, ImageStore
from clipcap.data.readers.images import SUFFIXES, is_image, walk_images
from clipcap.data.readers.walk import Walk
from clipcap.data.records import SPLITS, storable
from clipcap.data.remote import is_url
from clipcap.data.remote.folder import without_secrets
from clipcap.data.remote.images import RemoteImages
from clipcap.precompute.loading import Item, Loader
from clipcap.precompute.parallel import choose_workers, map_in_order

if TYPE_CHECKING:
    from clipcap.caption.captioner import Captioner

logger = logging.getLogger(__name__)

CACHES = {".h5", ".hdf5"}


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


class _Source(Protocol):
    """Consecutive inputs of one kind."""

    def groups(self, captioner: "Captioner", start: int) -> Iterator[Group]:
        """Read and embed the inputs in batches; groups that end before input `start` are not read."""

    def names(self) -> Iterator[str]:
        """The names of all inputs in order."""

    def count(self) -> int | None:
        """How many inputs there are; None where only reading all of them would tell."""

    def identity(self) -> object:
        """What tells these inputs from others, as JSON stores it."""


class Inputs:
    """All inputs of a run in the order in which they were given. Folders are listed once, when the object is built.

    Args:
        given: images, folders, files of embeddings (`ROW_FILES`) and caches; patterns such as `*.jpg`; as text, URLs of
            images and of folders; and `-`, which reads a list of these from stdin. What is in the list and does not
            exist is skipped with a reason, like a damaged image. Images that `ImageFolder` wrote are left out of
            folders and patterns, which is logged.
        split: of caches, the only split to caption.

    Attributes:
        images: all image files in order.
        remote: the images behind URLs.
        row_files: all files of embeddings and caches in order.
        one_image: whether the only input is one image.

    Raises:
        SourceError: a path or a URL does not exist, a pattern matches nothing, a folder holds no image, or a URL is not
            one of images.
        UsageError: `split` is not the name of a split, or an input is not a cache.
    """

    def __init__(self, given: Sequence[str | Path], split: str | None = None) -> None:
        if split is not None and split not in SPLITS:
            raise UsageError(f"`split` {split} is not known; use {', '.join(SPLITS)}")
        self.images: list[Path] = []
        self.row_files: list[Path] = []
        self.remote = RemoteImages()
        self._sources: list[_Source] = []
        self._left_out = 0
        for one in given:
            for expanded in _expand(one):
                if is_url(expanded):
                    self._add_url(expanded, split, chosen=expanded == one)
                else:
                    self._add(Path(expanded), split, chosen=Path(expanded) == Path(one) or str(one) == "-")
        if self._left_out:
            count = plural(self._left_out, "image")
            logger.info(
                f"{count} with captions, which an earlier run saved, left out; give a file itself to caption it"
            )
        if not self._sources:
            raise SourceError("there is nothing to caption: " + _nothing(given, self._left_out))
        one_file = self.images == [Path(given[0])] and not self.row_files
        self.one_image = len(given) == 1 and (one_file or list(self.remote.shown) == [given[0]])

    def groups(self, captioner: "Captioner", start: int = 0) -> Iterator[Group]:
        """Read and embed the inputs, at most `captioner.batch_size` at a time.

        Args:
            captioner: the model that the embeddings are for.
            start: number of the first input that is needed. A group that ends before it comes without its embedding,
                so that the other groups are the same for every `start`.

        Raises:
            SourceError: a file of rows cannot be read or has another shape than the model takes.
            CacheError: a cache is damaged.
            CheckpointError: a cache holds embeddings of another encoder, or the image encoder cannot be found.
        """
        for source in self._sources:
            for group in source.groups(captioner, start):
                yield group
                start -= len(group.names)

    def contains(self, path: Path) -> bool:
        """Whether a file is one of the inputs."""
        files = (*self.images, *self.row_files)
        return path.exists() and any(file.exists() and file.samefile(path) for file in files)

    def names(self) -> Iterator[str]:
        """The names of all inputs in order."""
        for source in self._sources:
            yield from source.names()

    def count(self) -> int | None:
        """How many inputs there are; None where only reading all of them would tell.

        Raises:
            CacheError: a cache cannot be opened.
            SourceError: a file of rows cannot be read.
        """
        counts = [source.count() for source in self._sources]
        known = [count for count in counts if count is not None]
        return sum(known) if len(known) == len(counts) else None

    def identity(self) -> object:
        """What tells these inputs from others, as JSON stores it: names, and the sizes and times of files of rows."""
        return [source.identity() for source in self._sources]

    def _add(self, path: Path, split: str | None, *, chosen: bool) -> None:
        """Add one path; captioned images are left out unless a person chose the file itself."""
        if split is not None and path.suffix.lower() not in CACHES:
            raise UsageError(f"`split` {split} is for caches, and {path} is not one")
        if _has_rows(path):
            self.row_files.append(path)
            self._sources.append(_CachedRows(path, split) if path.suffix.lower() in CACHES else _Rows(path))
            return
        is_folder = os.path.isdir(path)  # noqa: PTH112  # no name is an error
        found = list(walk_images(path)) if is_folder else [path]
        if not found:
            raise SourceError(f"{path} holds no images ({', '.join(sorted(SUFFIXES))})")
        images = found if chosen and not is_folder else [image for image in found if not is_captioned_image(image)]
        self._left_out += len(found) - len(images)
        self.images += images
        self._add_images(_Images([str(image) for image in images], FolderStore(Path())))

    def _add_url(self, url: str, split: str | None, *, chosen: bool) -> None:
        """Add the images behind a URL. One that a person did not choose may not exist, and is not opened yet."""
        shown = without_secrets(url)
        suffix = PurePosixPath(urlsplit(url).path).suffix.lower()
        if split is not None:
            raise UsageError(f"`split` {split} is for caches, and {shown} is a URL")
        if suffix in ROW_FILES | CACHES:
            raise SourceError(f"{shown} has no images, and embeddings are read from files; download it")
        images = self.remote.add(url) if chosen or not is_image(suffix) else self.remote.add_unseen(url)
        self._add_images(_RemoteImages(images, self.remote))

    def _add_images(self, source: "_Images") -> None:
        """Add images, to those before them if they come from the same store."""
        before = self._sources[-1] if self._sources else None
        if type(before) is type(source):
            before.paths.extend(source.paths)
        elif source.paths:
            self._sources.append(source)


class _Images:
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


class _RemoteImages(_Images):
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


class _Rows:
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


class _CachedRows:
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


def _expand(given: str | Path) -> list[str] | list[Path]:
    if str(given) == "-":
        lines = (os.fsdecode(line.rstrip(b"\r\n")) for line in sys.stdin.buffer)
        return [line for line in lines if line.strip()]
    if is_url(given):
        return [given]
    path = Path(given)
    if os.path.exists(path):  # noqa: PTH110  # no name is an error
        return [path]
    if glob.has_magic(str(path)):
        found = sorted(set(_match(Path(), path)), key=str)
        if not found:
            raise SourceError(f"{path} matches no file; give another pattern, an image or a folder")
        return found
    raise SourceError(f"{path} does not exist; give an image, a folder, rows (.npy, .npz, .pkl) or a cache (.h5)")


def _match(root: Path, pattern: Path) -> Iterator[Path]:
    """Yield what matches a pattern below a folder. For `**`, each real folder is taken once, also where links loop."""
    if "**" not in pattern.parts:
        yield from (root / name for name in glob.glob(str(pattern), root_dir=root))  # noqa: PTH207  # of any root
        return
    start = pattern.parts.index("**")
    before, after = Path(*pattern.parts[:start]), Path(*(pattern.parts[start + 1 :] or ("*",)))
    for base in filter(Path.is_dir, _match(root, before)):
        for folder, _ in Walk(base):
            yield from _match(base / folder, after)


def _nothing(given: Sequence[str | Path], left_out: int) -> str:
    if left_out:
        return f"{', '.join(map(str, given))} holds only images with captions that an earlier run saved"
    return "the list on stdin is empty"


def _has_rows(path: Path) -> bool:
    return path.suffix.lower() in ROW_FILES | CACHES and not os.path.isdir(path)  # noqa: PTH112


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
