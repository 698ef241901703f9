"""Folders of images: with a text file beside each image (`dog.jpg`, `dog.txt`, one caption a line), or without.

Folders named train, val or test at the top are the splits.
"""

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from clipcap.data.errors import SourceError
from clipcap.data.readers.base import Columns, Reader
from clipcap.data.readers.images import (
    NO_CAPTIONS,
    ImageFinder,
    group_captions,
    is_image,
    known_split,
    read_lines,
)
from clipcap.data.readers.walk import Walk
from clipcap.data.records import Source


class SidecarReader(Reader):
    """Reads images with a text file of the same name beside them, as img2dataset also writes them."""

    expected_layout = "images with a .txt of the same name beside each"

    def matches(self, path: Path) -> bool:
        return path.is_dir() and any(_has_sidecar(path / folder, entries) for folder, entries in Walk(path))

    def read(self, path: Path, columns: Columns) -> Source:
        finder = _find_images(path)
        notes: list[str] = []
        return group_captions("sidecar", finder, _rows(path, finder, notes), notes)


class FolderReader(Reader):
    """Reads images without captions: they can be captioned, not trained on."""

    expected_layout = "a folder of images"

    def matches(self, path: Path) -> bool:
        return path.is_dir() and any(is_image(entry.name) for _, entries in Walk(path) for entry in entries)

    def read(self, path: Path, columns: Columns) -> Source:
        finder = _find_images(path)
        rows = ((image, _split(finder, image), ()) for image in finder.paths)
        return group_captions("folder", finder, rows, [NO_CAPTIONS])


def _find_images(path: Path) -> ImageFinder:
    if not path.is_dir():
        raise SourceError(f"{path} is a file; give a folder of images")
    finder = ImageFinder(path)
    if not finder.paths:
        raise SourceError(f"{path} holds no images")
    return finder


def _rows(path: Path, finder: ImageFinder, notes: list[str]) -> Iterator[tuple[str, str | None, Iterator[str]]]:
    """Yield the images with a text file as `group_captions` takes them, and note how many have none."""
    without = []
    for image in finder.paths:
        file = (path / image).with_suffix(".txt")
        if file.is_file():
            yield image, _split(finder, image), read_lines(file)
        else:
            without.append(image)
    if without:
        notes.append(f"{len(without):,} images without a .txt were left out (such as {without[0]})")


def _has_sidecar(folder: Path, entries: list["os.DirEntry[str]"]) -> bool:
    """Return whether one of the files of a folder is an image with its text file."""
    if not any(entry.name.lower().endswith(".txt") for entry in entries):
        return False
    return any(is_image(entry.name) and (folder / entry.name).with_suffix(".txt").is_file() for entry in entries)


def _split(finder: ImageFinder, image: str) -> str | None:
    """Return the split of an image: the name of the outermost folder, or of a link to it."""
    folder = PurePosixPath(image).parts[0]
    links = (known_split(link) for link, walked in finder.links.items() if walked == folder)
    return known_split(folder) or next(filter(None, links), None)
