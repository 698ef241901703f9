"""Folders of pictures: with a caption beside each (`dog.jpg`, `dog.txt`, a line a caption), or with none at all.

Folders named train, val or test at the top are the splits.
"""

from pathlib import Path, PurePosixPath

from clipcap.data.errors import SourceError
from clipcap.data.readers.base import Columns, Reader
from clipcap.data.readers.images import ImageFinder, group_captions, known_split, read_text, walk_images
from clipcap.data.records import Source


class SidecarReader(Reader):
    """Pictures with a text file of the same name beside them, as img2dataset leaves them too."""

    expected_layout = "pictures with a .txt of the same name beside each"

    def matches(self, path: Path) -> bool:
        return path.is_dir() and any(picture.with_suffix(".txt").is_file() for picture in walk_images(path))

    def read(self, path: Path, columns: Columns) -> Source:
        pictures = _pictures(path)
        rows, without = [], []
        for picture in pictures.paths:
            file = (path / picture).with_suffix(".txt")
            if file.is_file():
                rows.append((picture, _split(picture), read_text(file).splitlines()))
            else:
                without.append(picture)
        notes = [f"{len(without):,} pictures without a .txt left out (as {without[0]})"] if without else []
        return group_captions("sidecar", pictures, rows, notes)


class FolderReader(Reader):
    """Pictures without captions: they can be captioned, not trained on."""

    expected_layout = "a folder of pictures"

    def matches(self, path: Path) -> bool:
        return path.is_dir() and any(True for _ in walk_images(path))

    def read(self, path: Path, columns: Columns) -> Source:
        pictures = _pictures(path)
        rows = [(picture, _split(picture), ()) for picture in pictures.paths]
        return group_captions("folder", pictures, rows, ["no captions: this cache can be captioned, not trained on"])


def _pictures(path: Path) -> ImageFinder:
    if not path.is_dir():
        raise SourceError(f"{path} is a file; give a folder of pictures")
    pictures = ImageFinder(path)
    if not pictures.paths:
        raise SourceError(f"{path} holds no pictures")
    return pictures


def _split(picture: str) -> str | None:
    return known_split(PurePosixPath(picture).parts[0])
