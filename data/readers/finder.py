"""Finds the image files of a dataset by the names that annotation files use."""

import os
import posixpath
from array import array
from collections.abc import Hashable, Iterable, Iterator
from dataclasses import replace
from functools import cached_property
from pathlib import Path

from clipcap.data.readers.names import Match, NameIndex
from clipcap.data.readers.walk import Walk, walk_files

SUFFIXES = {
    ".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".jp2", ".avif", ".heic", ".heif",
}  # fmt: skip
_ENDINGS = tuple(SUFFIXES)


class ImageFinder:
    """Finds the images of a dataset by name. One is made for each dataset, and no file is opened for it.

    Args:
        root: the folder of the dataset.
        folders: those in it that hold the images; by default all of it.

    Attributes:
        root: the folder of the dataset.
        paths: all images, relative to the root, with forward slashes.
        links: for each link to a folder that was walked under another path, that path.

    Raises:
        SourceError: a folder cannot be read.
    """

    def __init__(self, root: Path, folders: Iterable[str] = ("",)) -> None:
        self.root = root
        self.paths: list[str] = []
        self._prefix = f"{root.as_posix()}/"
        self._numbers: dict[str, int] = {}  # of all files by their paths
        self.links: dict[str, str] = {}
        inodes = array("Q")  # of the files; several paths of one may be names of one file
        for start in folders:
            walk = Walk(root, start)
            for folder, entries in sorted(walk, key=lambda found: found[0].split("/")):
                prefix = f"{folder}/" if folder else ""
                for entry in entries:
                    path = prefix + entry.name
                    if path in self._numbers:
                        continue
                    self._numbers[path] = len(inodes)
                    inodes.append(_inode(entry))
                    if is_image(entry.name):
                        self.paths.append(path)
            self.links |= walk.links
        self._linked = _numbers_of_repeated(inodes)
        self._index = NameIndex(self.paths)

    def match(self, name: str, folder: str = "") -> Match:
        """Return the paths, relative to the root, of the images with that name.

        Three matches are tried in this order: the whole path, the end of a path, and the bare file name. So a dataset
        is found when it was unpacked into another folder, or without the folder that its names begin with. Each of
        them may differ from the name as `NameIndex` allows.

        Args:
            name: a path with slashes of either kind, or the end of one.
            folder: the folder below the root that the name is relative to; only images in it are found.
        """
        whole = self.whole(name, folder)
        if whole is not None:
            return Match([whole])
        match = self._index.match(plain_path(name).removeprefix(self._prefix), folder)
        if len(match.paths) > 1:
            first = self.file(match.paths[0])
            if all(self.file(path) == first for path in match.paths):
                return replace(match, paths=match.paths[:1])
        return match

    def whole(self, name: str, folder: str = "") -> str | None:
        """Return the path of the file whose whole path the name is, through links or not; else None."""
        path = f"{folder}/{name}" if folder else name
        if path in self._numbers:
            return path
        name = plain_path(name).removeprefix(self._prefix)
        path = self._walked_path(posixpath.normpath(posixpath.join(folder, name)))
        return path if path in self._numbers else None

    def find(self, name: str) -> str | None:
        """Return the path, relative to the root, of the image with that name; None if there is no or no single one."""
        return self.match(name).path

    def __len__(self) -> int:
        """Return the number of files, images and others."""
        return len(self._numbers)

    def number(self, path: str) -> int:
        """Return the number of a path that was found, counted from 0 over all files."""
        return self._numbers[path]

    def file(self, path: str) -> int:
        """Return a number that two paths of this finder share if and only if they are names of one file."""
        number = self._numbers[path]
        return self._first_names.get(number, number)

    @cached_property
    def _first_names(self) -> dict[int, int]:
        """The number of the first name of each file that may have several, by the numbers of its names."""
        first: dict[Hashable, int] = {}
        return {
            number: first.setdefault(self._file_key(path), number)
            for path, number in self._numbers.items()
            if number in self._linked
        }

    def _file_key(self, path: str) -> Hashable:
        try:
            status = (self.root / path).stat()
        except OSError:
            return path
        return (status.st_dev, status.st_ino) if status.st_ino else os.path.realpath(self.root / path)

    def _walked_path(self, path: str) -> str:
        """Replace links to folders by the paths under which these folders were walked."""
        if not self.links:
            return path
        folder, _, name = path.rpartition("/")
        walked = ""
        for part in folder.split("/"):
            walked = posixpath.join(walked, part)
            walked = self.links.get(walked, walked)
        return posixpath.join(walked, name)


def is_image(name: str) -> bool:
    """Return whether a file with this name is taken for an image."""
    return name.lower().endswith(_ENDINGS)


def plain_path(name: str) -> str:
    """Return a path as it is compared: with forward slashes, and without `.` and what `..` removes."""
    return posixpath.normpath(name.replace("\\", "/"))


def walk_images(root: Path) -> Iterator[Path]:
    """Yield every image below a folder, as `walk_files` does."""
    return walk_files(root, _ENDINGS)


def _inode(entry: "os.DirEntry[str]") -> int:
    """Return the inode of the file, which may be that of another file on another device; it costs no `stat`."""
    try:
        inode = entry.stat().st_ino if entry.is_symlink() else entry.inode()
    except OSError:  # a link to nothing
        inode = entry.inode()
    return inode & 0xFFFF_FFFF_FFFF_FFFF  # some file systems have longer ones


def _numbers_of_repeated(inodes: "array[int]") -> set[int]:
    """Return where values stand that occur more than once."""
    import numpy as np

    _, inverse, counts = np.unique(np.asarray(inodes), return_inverse=True, return_counts=True)
    return set(np.flatnonzero(counts[inverse] > 1).tolist())
