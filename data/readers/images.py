"""Finds the image files of a dataset, and builds records from what an annotation file says about them."""

import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

from clipcap.data.errors import SourceError
from clipcap.data.records import SPLITS, Record, Source

SUFFIXES = {
    ".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".jp2", ".avif", ".heic", ".heif",
}  # fmt: skip
NO_CAPTIONS = "no captions: this cache can be captioned, not trained on"  # a note
_SPLIT_SYNONYMS = {"training": "train", "validation": "val", "valid": "val", "dev": "val", "testing": "test"}


class ImageFinder:
    """Finds the images below a folder by the names that annotation files use.

    Args:
        root: the folder.

    Attributes:
        root: the folder.
        paths: all images below it, relative to it, with forward slashes.

    Raises:
        SourceError: a folder cannot be read.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.paths: list[str] = []
        self._by_name: dict[str, list[str]] = defaultdict(list)
        for image in walk_images(root):
            path = image.relative_to(root).as_posix()
            self.paths.append(path)
            self._by_name[image.name].append(path)
        self._known = set(self.paths)

    def find(self, name: str) -> str | None:
        """Return the path, relative to the root, of the image with that name; None if there is no or no single one.

        Three matches are tried in this order: the whole path, the end of a path, and the bare file name. So a dataset
        is found when it was unpacked into another folder, or without the folder that its names begin with.
        """
        name = name.replace("\\", "/").removeprefix("./")
        if name in self._known:
            return name
        if name.startswith(f"{self.root.as_posix()}/"):
            return self.find(name[len(self.root.as_posix()) + 1 :])
        same_name = self._by_name.get(PurePosixPath(name).name, [])
        same_end = [path for path in same_name if path.endswith(f"/{name}")]
        found = same_end or same_name
        return found[0] if len(found) == 1 else None


def walk_images(root: Path) -> Iterator[Path]:
    """Yield every image below a folder, as `walk_files` does."""
    return walk_files(root, tuple(SUFFIXES))


def walk_files(root: Path, endings: tuple[str, ...]) -> Iterator[Path]:
    """Yield every file below a folder in sorted order, except hidden files and those in hidden folders.

    Args:
        root: the folder.
        endings: in lower case; the name of a file ends with one of them, in any case.

    Raises:
        SourceError: a folder cannot be read.
    """
    for folder, folders, names in os.walk(root, onerror=_cannot_be_read, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if name.lower().endswith(endings) and not name.startswith("."):
                yield Path(folder) / name


def group_captions(
    format: str,
    finder: ImageFinder,
    rows: Iterable[tuple[str, str | None, Iterable[str]]],
    notes: Iterable[str] = (),
) -> Source:
    """Build one record per image from rows that each name an image; the path of an image is also its id.

    Args:
        format: the reader's name.
        finder: finds the images; its root becomes the root of the source.
        rows: (image name, split, captions); several rows may name the same image. Blank captions are dropped.
        notes: of the source.

    Raises:
        SourceError: an image is in two splits.
    """
    captions: dict[str, list[str]] = {}
    splits: dict[str, str | None] = {}
    for name, split, texts in rows:
        if name not in captions:
            captions[name], splits[name] = [], split
        elif splits[name] != split:
            raise SourceError(f"{name} is in two splits, {splits[name]} and {split}; remove it from one of them")
        captions[name].extend(text for text in texts if text.strip())
    records, missing = [], []
    for name, texts in captions.items():
        path = finder.find(name)
        if path is None:
            missing.append(name)
        records.append(Record(path or name, path or name, splits[name], tuple(texts)))
    used = {record.path for record in records}
    return Source(
        format=format,
        root=finder.root,
        records=records,
        missing=missing,
        unlisted=[path for path in finder.paths if path not in used],
        notes=list(notes),
    )


def known_split(name: str) -> str | None:
    """Return the split that a column or the name of a folder stands for, or None if it is not a split."""
    lower = name.strip().lower()
    split = _SPLIT_SYNONYMS.get(lower, lower)
    return split if split in SPLITS else None


def path_split(path: str) -> str | None:
    """Return the split that a folder of the path, or its last name, begins with; of several, the outermost.

    `test/0.tar`, `train-00000-of-00002.parquet` and `val2014.tar` begin with a split, and `trainer.tar` does not.
    """
    words = (re.match("[A-Za-z]*", part) for part in PurePosixPath(path).parts)
    return next((split for word in words if word and (split := known_split(word[0]))), None)


def read_text(file: Path) -> str:
    r"""Read a UTF-8 file, with or without a byte-order mark; line ends of any system become `\n`.

    Raises:
        SourceError: the file cannot be read or is not UTF-8.
    """
    try:
        return file.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise SourceError(f"{file} cannot be read ({error.strerror}); check its permissions") from error
    except UnicodeDecodeError as error:
        raise SourceError(
            f"{file} is not UTF-8 (byte {error.start:,} is 0x{error.object[error.start]:02x}); save it as UTF-8"
        ) from error


def read_lines(file: Path) -> list[str]:
    r"""Read the lines of a UTF-8 file without their line ends.

    Lines end at `\n` alone. `str.splitlines` would also break a caption at U+2028, U+2029, U+0085, vertical tabs and
    form feeds.

    Raises:
        SourceError: as `read_text`.
    """
    return read_text(file).split("\n")


def _cannot_be_read(error: OSError) -> None:
    raise SourceError(f"{error.filename} cannot be read ({error.strerror}); check its permissions") from error
