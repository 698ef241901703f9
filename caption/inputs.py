"""What `clipcap-caption` captions: files, folders, rows of `.npy` files and caches, as a stream of batches in order."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from clipcap.data.errors import ImageError, SourceError, UsageError
from clipcap.data.readers.pictures import SUFFIXES
from clipcap.data.records import SPLITS, storable

if TYPE_CHECKING:
    from clipcap.caption.captioner import Captioner

CACHES = {".h5", ".hdf5"}


@dataclass(frozen=True, kw_only=True)
class Group:
    """Inputs that are captioned together.

    Attributes:
        names: as results name them: a path, the `images/path` of a cached row, `rows.npy[3]`.
        embedding: float32 (len(names), d).
        skipped: (path, reason) of pictures that could not be read.
    """

    names: list[str]
    embedding: torch.Tensor
    skipped: list[tuple[str, str]]


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """All inputs, in the order in which they were given.

    Args:
        given: paths of files, folders, `.npy` files and caches.
        split: only rows of this split, of caches.

    Raises:
        SourceError: a path does not exist, or a folder holds no picture.
        UsageError: a split that does not exist, or for inputs that have none.
    """

    given: list[Path]
    split: str | None

    def __post_init__(self) -> None:
        if self.split is not None and self.split not in SPLITS:
            raise UsageError(f"--split {self.split} is not known; use {', '.join(SPLITS)}")
        for path in self.given:
            if not path.exists():
                raise SourceError(f"{path} does not exist; give a picture, a folder, rows (.npy) or a cache (.h5)")
            if self.split is not None and path.suffix not in CACHES:
                raise UsageError(f"--split {self.split} is for caches; {path} is none")
            if path.is_dir() and not _pictures(path):
                raise SourceError(f"{path} holds no pictures ({', '.join(sorted(SUFFIXES))})")

    @property
    def one_picture(self) -> bool:
        """Whether the input is a single picture's file."""
        return (
            len(self.given) == 1 and self.given[0].is_file() and self.given[0].suffix.lower() not in {".npy", *CACHES}
        )

    def groups(self, captioner: "Captioner") -> Iterator[Group]:
        """Read and embed the inputs, a group at a time.

        Raises:
            ClipCapError: a file of rows or a cache cannot be read or does not fit the model.
        """
        pictures: list[Path] = []
        for path in self.given:
            if path.suffix.lower() in {".npy", *CACHES}:
                yield from self._picture_groups(pictures, captioner)
                pictures = []
                rows = self._rows(path, captioner) if path.suffix.lower() == ".npy" else self._cached(path, captioner)
                yield from rows
            else:
                pictures.extend(_pictures(path) if path.is_dir() else [path])
        yield from self._picture_groups(pictures, captioner)

    def _picture_groups(self, pictures: list[Path], captioner: "Captioner") -> Iterator[Group]:
        for start in range(0, len(pictures), captioner.batch_size):
            pixels: list[torch.Tensor] = []
            names: list[str] = []
            skipped: list[tuple[str, str]] = []
            for path in pictures[start : start + captioner.batch_size]:
                try:
                    pixels.append(captioner.pixels(path))
                    names.append(storable(str(path)))
                except ImageError as error:
                    skipped.append((str(path), str(error).removeprefix(f"{path}: ")))
            embedding = (
                captioner.encoder.encode(torch.stack(pixels)) if pixels else torch.empty(0, captioner.encoder.width)
            )
            yield Group(names=names, embedding=embedding, skipped=skipped)

    def _rows(self, path: Path, captioner: "Captioner") -> Iterator[Group]:
        try:
            rows = np.load(path, mmap_mode="r", allow_pickle=False)
        except (ValueError, OSError, EOFError) as error:
            raise SourceError(f"{path} holds no rows of numbers ({error}); save them with numpy.save") from error
        if not isinstance(rows, np.ndarray) or rows.dtype.kind not in "fiu":
            what = rows.dtype if isinstance(rows, np.ndarray) else "an archive"
            raise SourceError(f"{path} holds {what}, not rows of numbers; save float rows with numpy.save")
        rows = rows[None] if rows.ndim == 1 else rows
        width = captioner.config.mapper.embedding_width
        if rows.ndim != 2 or rows.shape[1] != width or not len(rows):
            raise SourceError(
                f"{path} has the shape {rows.shape}; this model takes rows of {width} numbers, (n, {width})"
            )
        for start in range(0, len(rows), captioner.batch_size):
            numbers = range(start, min(start + captioner.batch_size, len(rows)))
            part = _finite(path, rows[start : numbers.stop], numbers)
            names = [f"{storable(str(path))}[{number}]" for number in numbers]
            yield Group(names=names, embedding=part, skipped=[])

    def _cached(self, path: Path, captioner: "Captioner") -> Iterator[Group]:
        from clipcap.data.cache import Cache

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


def _finite(path: Path, rows: np.ndarray[Any, Any], numbers: Sequence[int]) -> torch.Tensor:
    """Embeddings (n, d) as float32; `numbers` are theirs in the file, for the error."""
    rows = rows.astype(np.float32)
    bad = np.flatnonzero(~np.isfinite(rows).all(axis=1))
    if len(bad):
        raise SourceError(f"{path}: row {numbers[bad[0]]} holds values that are not finite; leave it out")
    return torch.from_numpy(rows)


def _pictures(folder: Path) -> list[Path]:
    """Every picture below a folder; hidden files and folders are somebody's own business."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in SUFFIXES
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        and path.is_file()
    )
