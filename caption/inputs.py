"""The inputs of a captioning run: images, folders, URLs, embeddings and caches, as a stream of batches in order."""

import glob
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from clipcap.caption.images import is_captioned_image
from clipcap.caption.input_kinds import CachedRowInputs, Group, ImageInputs, InputSource, RemoteImageInputs, RowInputs
from clipcap.caption.row_files import ROW_FILES
from clipcap.data.command.progress import plural
from clipcap.data.errors import SourceError, UsageError
from clipcap.data.image_store import FolderStore
from clipcap.data.readers.images import SUFFIXES, is_image, walk_images
from clipcap.data.readers.walk import Walk
from clipcap.data.records import SPLITS
from clipcap.data.remote import is_url
from clipcap.data.remote.folder import without_secrets
from clipcap.data.remote.images import RemoteImages

if TYPE_CHECKING:
    from clipcap.caption.captioner import Captioner

logger = logging.getLogger(__name__)

CACHES = {".h5", ".hdf5"}


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
        self._sources: list[InputSource] = []
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
            self._sources.append(CachedRowInputs(path, split) if path.suffix.lower() in CACHES else RowInputs(path))
            return
        is_folder = os.path.isdir(path)  # noqa: PTH112  # no name is an error
        found = list(walk_images(path)) if is_folder else [path]
        if not found:
            raise SourceError(f"{path} holds no images ({', '.join(sorted(SUFFIXES))})")
        images = found if chosen and not is_folder else [image for image in found if not is_captioned_image(image)]
        self._left_out += len(found) - len(images)
        self.images += images
        self._add_images(ImageInputs([str(image) for image in images], FolderStore(Path())))

    def _add_url(self, url: str, split: str | None, *, chosen: bool) -> None:
        """Add the images behind a URL. One that a person did not choose may not exist, and is not opened yet."""
        shown = without_secrets(url)
        suffix = PurePosixPath(urlsplit(url).path).suffix.lower()
        if split is not None:
            raise UsageError(f"`split` {split} is for caches, and {shown} is a URL")
        if suffix in ROW_FILES | CACHES:
            raise SourceError(f"{shown} has no images, and embeddings are read from files; download it")
        images = self.remote.add(url) if chosen or not is_image(suffix) else self.remote.add_unseen(url)
        self._add_images(RemoteImageInputs(images, self.remote))

    def _add_images(self, source: "ImageInputs") -> None:
        """Add images, to those before them if they come from the same store."""
        before = self._sources[-1] if self._sources else None
        if type(before) is type(source):
            before.paths.extend(source.paths)
        elif source.paths:
            self._sources.append(source)


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
