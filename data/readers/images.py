"""The pictures in a dataset's folder, and records of what an annotation file says of them. What most readers share."""

import os
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

from clipcap.data.errors import SourceError
from clipcap.data.records import SPLITS, Record, Source

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".jp2", ".avif"}
_OTHER_NAMES = {"training": "train", "validation": "val", "valid": "val", "dev": "val", "testing": "test"}


class ImageFinder:
    """All pictures below a folder, found by the names that annotation files give them.

    Args:
        root: the folder.

    Raises:
        SourceError: it cannot be read.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.paths: list[str] = []
        self._by_name: dict[str, list[str]] = defaultdict(list)
        for picture in walk_images(root):
            path = picture.relative_to(root).as_posix()
            self.paths.append(path)
            self._by_name[picture.name].append(path)
        self._known = set(self.paths)

    def find(self, name: str) -> str | None:
        """The path, relative to the root, of the picture that is called so; None where there is none, or no single one.

        A whole path counts before the end of one, and that before the bare name: a dataset may have been unpacked with
        another folder around it, or without the one that it was made in.
        """
        name = name.replace("\\", "/").removeprefix("./")
        if name in self._known:
            return name
        if name.startswith(f"{self.root.as_posix()}/"):
            return self.find(name[len(self.root.as_posix()) + 1 :])
        alike = self._by_name.get(PurePosixPath(name).name, [])
        ending = [path for path in alike if path.endswith(f"/{name}")]
        found = ending or alike
        return found[0] if len(found) == 1 else None


def walk_images(root: Path) -> Iterator[Path]:
    """Every picture below a folder; hidden files and folders are somebody's own business.

    Raises:
        SourceError: a folder cannot be read.
    """
    for folder, folders, names in os.walk(root, onerror=_cannot_be_read, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if PurePosixPath(name).suffix.lower() in SUFFIXES and not name.startswith("."):
                yield Path(folder) / name


def group_captions(
    format_name: str,
    pictures: ImageFinder,
    rows: Iterable[tuple[str, str | None, Iterable[str]]],
    notes: Iterable[str] = (),
) -> Source:
    """Records of rows that name a picture each, several rows a picture or one; a picture's path is its id.

    Args:
        format_name: the reader's name.
        pictures: in the source's folder.
        rows: (the picture as the file names it, split, captions).
        notes: what the reader has to say.

    Raises:
        SourceError: a picture stands in two splits.
    """
    captions: dict[str, list[str]] = {}
    splits: dict[str, str | None] = {}
    paths: dict[str, str | None] = {}
    for name, split, some in rows:
        if name not in captions:
            captions[name], splits[name] = [], split
        elif splits[name] != split:
            raise SourceError(f"{name} is in two splits, {splits[name]} and {split}; mend the list of either")
        captions[name].extend(text for text in some if text.strip())
    records, missing = [], []
    for name, some in captions.items():
        path = paths.setdefault(name, pictures.find(name))
        if path is None:
            missing.append(name)
        records.append(Record(path or name, path or name, splits[name], tuple(some)))
    used = {record.path for record in records}
    return Source(
        format=format_name,
        root=pictures.root,
        records=records,
        missing=missing,
        unlisted=[path for path in pictures.paths if path not in used],
        notes=list(notes),
    )


def known_split(name: str) -> str | None:
    """The split that a column or a folder means; None where it means none."""
    lower = name.strip().lower()
    split = _OTHER_NAMES.get(lower, lower)
    return split if split in SPLITS else None


def read_text(file: Path) -> str:
    """A text file in UTF-8, with or without a byte-order mark, with any line ends.

    Raises:
        SourceError: it cannot be read, or is in another encoding.
    """
    try:
        return file.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise SourceError(f"{file} cannot be read ({error.strerror}); see to its permissions") from error
    except UnicodeDecodeError as error:
        raise SourceError(
            f"{file} is not UTF-8 (byte {error.start:,} is 0x{error.object[error.start]:02x}); save it as UTF-8"
        ) from error


def _cannot_be_read(error: OSError) -> None:
    raise SourceError(f"{error.filename} cannot be read ({error.strerror}); see to its permissions") from error
