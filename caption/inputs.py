"""What `clipcap-caption` captions: files, folders, rows of `.npy` files and caches, as a stream of batches in order."""

import glob
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from clipcap.data.errors import SourceError, UsageError
from clipcap.data.readers.images import SUFFIXES, walk_images
from clipcap.data.records import SPLITS, storable
from clipcap.precompute.images import choose_workers, decode_pictures

if TYPE_CHECKING:
    from clipcap.caption.captioner import Captioner

CACHES = {".h5", ".hdf5"}


@dataclass(frozen=True, kw_only=True)
class Group:
    """Inputs that are captioned together.

    Attributes:
        names: as results name them: a path, the `images/path` of a cached row, `rows.npy[3]`.
        embedding: float32 (len(names), d), or (len(names), t, d).
        skipped: (path, reason) of pictures that could not be read.
        pictures: the files, where the inputs are pictures.
    """

    names: list[str]
    embedding: torch.Tensor
    skipped: list[tuple[str, str]]
    pictures: list[Path] = field(default_factory=list)


class Inputs:
    """All inputs, in the order in which they were given.

    Args:
        given: files, folders, `.npy` files and caches; patterns as `*.jpg`; and `-`, a list of such paths on stdin, of
            which those that do not exist are skipped when their turn comes.
        split: only rows of this split, of caches.

    Raises:
        SourceError: a path does not exist, a pattern matches nothing, or a folder holds no picture.
        UsageError: a split that does not exist, or for inputs that have none.
    """

    def __init__(self, given: list[Path], split: str | None = None) -> None:
        if split is not None and split not in SPLITS:
            raise UsageError(f"--split {split} is not known; use {', '.join(SPLITS)}")
        self.split = split
        self.one_picture = len(given) == 1 and given[0].is_file() and not has_rows(given[0])
        self.paths = [path for some in given for path in _expand(some)]
        if not self.paths:
            raise SourceError("nothing to caption: the list on stdin is empty")
        for path in self.paths:
            if split is not None and path.suffix.lower() not in CACHES:
                raise UsageError(f"--split {split} is for caches; {path} is none")
            if path.is_dir() and next(walk_images(path), None) is None:
                raise SourceError(f"{path} holds no pictures ({', '.join(sorted(SUFFIXES))})")

    def groups(self, captioner: "Captioner") -> Iterator[Group]:
        """Read and embed the inputs, a group at a time.

        Raises:
            ClipCapError: a file of rows or a cache cannot be read or does not fit the model.
        """
        pictures: list[Path] = []
        for path in self.paths:
            if has_rows(path):
                yield from _picture_groups(pictures, captioner)
                pictures = []
                rows = _rows(path, captioner) if path.suffix.lower() == ".npy" else self._cached(path, captioner)
                yield from rows
            else:
                pictures.extend(walk_images(path) if path.is_dir() else [path])
        yield from _picture_groups(pictures, captioner)

    def _cached(self, path: Path, captioner: "Captioner") -> Iterator[Group]:
        from clipcap.data.cache.index import Cache

        cache = Cache.open(path)
        captioner.check_fingerprint(path, cache.fingerprint)
        found = 0
        splits: set[int] = set()
        for tables in cache.tables():
            splits.update(tables.split.tolist())
            chosen = np.arange(len(tables.id))
            if self.split is not None:
                chosen = np.flatnonzero(tables.split == SPLITS.index(self.split))
            found += len(chosen)
            for start in range(0, len(chosen), captioner.batch_size):
                rows = chosen[start : start + captioner.batch_size]
                yield Group(
                    names=[tables.path[row] for row in rows],
                    embedding=_finite(path, tables.embedding[rows], rows.tolist()),
                    skipped=[],
                )
        if not found:
            has = ", ".join(SPLITS[number] for number in sorted(splits))
            raise SourceError(f"{path} has no pictures" + (f" of --split {self.split}; it has {has}" if has else ""))


def _expand(path: Path) -> list[Path]:
    if str(path) == "-":
        lines = (os.fsdecode(line.rstrip(b"\r\n")) for line in sys.stdin.buffer)
        return [Path(line) for line in lines if line.strip()]
    if path.exists():
        return [path]
    if glob.has_magic(str(path)):
        found = sorted(glob.glob(str(path), recursive=True))  # noqa: PTH207 (Path.glob takes no absolute one)
        if not found:
            raise SourceError(f"{path} matches no file; give another pattern, a picture or a folder")
        return [Path(name) for name in found]
    raise SourceError(f"{path} does not exist; give a picture, a folder, rows (.npy) or a cache (.h5)")


def has_rows(path: Path) -> bool:
    return path.suffix.lower() in {".npy", *CACHES}


def _picture_groups(pictures: list[Path], captioner: "Captioner") -> Iterator[Group]:
    numbers = range(len(pictures))
    batches = [
        list(numbers[start : start + captioner.batch_size]) for start in range(0, len(numbers), captioner.batch_size)
    ]
    if not batches:
        return
    # Processes are worth their start only where there is more than one batch.
    workers = choose_workers() if len(batches) > 1 else 0
    decoded = decode_pictures(pictures, captioner.encoder.transform, batches, workers)
    for batch, (pixels, reasons) in zip(batches, decoded, strict=True):
        paths = [str(pictures[number]) for number in batch]
        yield Group(
            names=[storable(path) for path, reason in zip(paths, reasons, strict=True) if reason is None],
            embedding=captioner.encoder.encode(pixels) if len(pixels) else torch.empty(0, *captioner.encoder.shape),
            skipped=[(path, reason) for path, reason in zip(paths, reasons, strict=True) if reason is not None],
            pictures=[Path(path) for path, reason in zip(paths, reasons, strict=True) if reason is None],
        )


def _rows(path: Path, captioner: "Captioner") -> Iterator[Group]:
    try:
        rows = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise SourceError(f"{path} holds no rows of numbers ({error}); save them with numpy.save") from error
    if not isinstance(rows, np.ndarray) or rows.dtype.kind not in "fiu":
        what = rows.dtype if isinstance(rows, np.ndarray) else "an archive"
        raise SourceError(f"{path} holds {what}, not rows of numbers; save float rows with numpy.save")
    shape = captioner.config.mapper.embedding_shape
    rows = rows[None] if rows.shape == shape else rows
    if rows.shape[1:] != shape or not len(rows):
        size = ", ".join(map(str, shape))
        raise SourceError(f"{path} has the shape {rows.shape}; this model takes rows of {size} numbers, (n, {size})")
    for start in range(0, len(rows), captioner.batch_size):
        numbers = range(start, min(start + captioner.batch_size, len(rows)))
        part = _finite(path, rows[start : numbers.stop], numbers)
        names = [f"{storable(str(path))}[{number}]" for number in numbers]
        yield Group(names=names, embedding=part, skipped=[])


def _finite(path: Path, rows: np.ndarray[Any, Any], numbers: Sequence[int]) -> torch.Tensor:
    """Embeddings (n, d) or (n, t, d) as float32; `numbers` are theirs in the file, for the error."""
    rows = rows.astype(np.float32)
    bad = np.flatnonzero(~np.isfinite(rows).reshape(len(rows), -1).all(axis=1))
    if len(bad):
        raise SourceError(f"{path}: row {numbers[bad[0]]} holds values that are not finite; leave it out")
    return torch.from_numpy(rows)
