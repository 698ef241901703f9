"""What readers of images share: the finder of their files, the records of the images that they list, and texts."""

import posixpath
import re
from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

from clipcap.data.errors import SourceError
from clipcap.data.readers.finder import SUFFIXES, ImageFinder, is_image, plain_path, walk_images
from clipcap.data.readers.names import UNICODE_FORM, Match
from clipcap.data.records import SPLITS, Record, Source

__all__ = [
    "NO_CAPTIONS", "SUFFIXES", "ImageFinder", "Listing", "group_captions", "is_image", "known_split", "path_split",
    "read_lines", "read_text", "walk_images",
]  # fmt: skip

NO_CAPTIONS = "no captions: this cache can be captioned, not trained on"  # a note
_SPLIT_SYNONYMS = {"training": "train", "validation": "val", "valid": "val", "dev": "val", "testing": "test"}


class Listing:
    """Builds the records of the images that a dataset lists: one per file, with the captions of all its names.

    Args:
        finder: finds the images; its root becomes the root of the source.
        names: all names that will be added, where they are known: an image that is listed under its own path is not
            taken for that of a name that is only similar.
    """

    def __init__(self, finder: ImageFinder, names: Iterable[str] = ()) -> None:
        self._finder = finder
        self._own = {finder.file(path) for path in map(finder.whole, names) if path is not None}
        self._records: dict[Hashable, Record] = {}  # by file
        self._names: dict[Hashable, str] = {}  # the first name of each file
        self._used: set[str] = set()
        self._missing: list[str] = []
        # What the notes say, each with an example: names, and in what they differ from their files.
        self._inexact: dict[str, list[tuple[str, str]]] = defaultdict(list)
        self._ambiguous: list[tuple[str, Sequence[str]]] = []
        self._similar: list[tuple[str, str]] = []
        self._renamed: dict[Hashable, tuple[str, str]] = {}
        self._in_two_splits: dict[Hashable, str] = {}

    def add(
        self, name: str, split: str | None, captions: Iterable[str], id: str | None = None, folder: str = ""
    ) -> None:
        """Add an image; another name of a file that was added before adds its captions to that record.

        Args:
            name: of the image.
            split: one of `SPLITS`, or None; of several names of a file, the first that has a split decides.
            captions: of the image.
            id: of the image; by default its path.
            folder: the folder below the root that the name is relative to.
        """
        match = self._finder.match(name, folder)
        found = match.path
        if found is not None and self._is_of_another(name, found, match.difference):
            self._similar.append((name, found))
            match, found = Match(), None
        path = found or posixpath.join(folder, name)
        if found is None:
            file: Hashable = ("missing", id or plain_path(path))
            if match.paths:
                self._ambiguous.append((name, match.paths))
        else:
            file = self._finder.file(path)
            self._used.add(path)
            if match.difference:
                self._inexact[match.difference].append((name, path))
        record = self._records.get(file)
        if record is None:
            self._records[file] = Record(id or path, path, split, tuple(captions))
            self._names[file] = name
            if found is None:
                self._missing.append(path)
        else:
            self._merge(file, record, name, split, captions)

    def _is_of_another(self, name: str, found: str, difference: str) -> bool:
        """Whether the image of a name that differs from it is listed under its own name."""
        plain, path = f"/{plain_path(name)}", f"/{found}"
        differs = bool(difference) or not (plain.endswith(path) or path.endswith(plain))
        return differs and self._finder.file(found) in self._own and self._finder.whole(name) is None

    def _merge(self, file: Hashable, record: Record, name: str, split: str | None, captions: Iterable[str]) -> None:
        first = self._names[file]
        self._renamed.setdefault(file, (first, name))
        if split and record.split and split != record.split:
            self._in_two_splits.setdefault(file, f"{first} in {record.split}, {name} in {split}")
        split = record.split or split
        self._records[file] = replace(record, split=split, captions=(*record.captions, *captions))

    def source(self, format: str, notes: Iterable[str] = ()) -> Source:
        """Return the source with all images that were added.

        Args:
            format: the reader's name.
            notes: of the source; those about the names of images are added.
        """
        return Source(
            format=format,
            root=self._finder.root,
            records=list(self._records.values()),
            missing=self._missing,
            unlisted=[path for path in self._finder.paths if path not in self._used],
            notes=[*notes, *self._notes()],
        )

    def _notes(self) -> Iterator[str]:
        for difference, pairs in self._inexact.items():
            name, path = map(ascii if difference == UNICODE_FORM else str, pairs[0])
            yield f"image names that {difference}: {len(pairs):,} (such as {name}, found as {path})"
        if self._ambiguous:
            name, (one, other, *_) = self._ambiguous[0]
            yield (
                f"image names that fit several files and count as missing: {len(self._ambiguous):,} (such as {name}, "
                f"which fits {one} and {other}); list these images by their whole paths"
            )
        if self._similar:
            name, path = self._similar[0]
            yield (
                f"image names that count as missing, for the image that is like them is listed under its own name: "
                f"{len(self._similar):,} (such as {name}, and {path})"
            )
        if self._renamed:
            first, name = next(iter(self._renamed.values()))
            yield (
                f"images listed under several names, whose captions were joined: {len(self._renamed):,} (such as "
                f"{first} and {name})"
            )
        if self._in_two_splits:
            example = next(iter(self._in_two_splits.values()))
            yield (
                f"images listed in two splits under different names, which stay in the first: "
                f"{len(self._in_two_splits):,} (such as {example})"
            )


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
        SourceError: one name is in two splits.
    """
    captions: dict[str, list[str]] = {}
    splits: dict[str, str | None] = {}
    for name, split, texts in rows:
        if name not in captions:
            captions[name], splits[name] = [], split
        elif splits[name] != split:
            raise SourceError(f"{name} is in two splits, {splits[name]} and {split}; remove it from one of them")
        captions[name].extend(text for text in texts if text.strip())
    listing = Listing(finder, captions)
    for name, texts in captions.items():
        listing.add(name, splits[name], texts)
    return listing.source(format, notes)


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
