"""What readers of images share: the finder of their files, the records of the images that they list, and texts."""

import posixpath
import re
from array import array
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from clipcap.data import files
from clipcap.data.errors import SourceError, unreadable
from clipcap.data.readers.finder import SUFFIXES, ImageFinder, is_image, plain_path, walk_images
from clipcap.data.readers.names import UNICODE_FORM, Match
from clipcap.data.records import SPLITS, RecordsBuilder, Source
from clipcap.data.texts import Texts

__all__ = [
    "NO_CAPTIONS", "SUFFIXES", "ImageFinder", "Listing", "first_line", "group_captions", "identifier", "is_image",
    "known_split", "path_split", "read_lines", "read_text", "walk_images",
]  # fmt: skip

NO_CAPTIONS = "no captions: this cache can be captioned, not trained on"  # a note
MAX_LINE = 1 << 24  # characters
_SPLIT_NAMES = {
    **{split: split for split in SPLITS},
    "training": "train", "validation": "val", "valid": "val", "dev": "val", "testing": "test",
}  # fmt: skip


class Listing:
    """Builds the records of the images that a dataset lists: one per file, with the captions of all its names.

    The names are numbered from 0 in the order in which they are added. Captions go to `records`, where a name is a
    group, before or after it is added.

    Args:
        finder: finds the images; its root becomes the root of the source.
        names: all names that will be added, where they are known: an image that is listed under its own path is not
            taken for that of a name that is only similar.
        records: with the captions that are known already.
    """

    def __init__(self, finder: ImageFinder, names: Iterable[str] = (), records: RecordsBuilder | None = None) -> None:
        self.records = RecordsBuilder() if records is None else records
        self._finder = finder
        self._is_own = bytearray(len(finder))  # whether a file is listed under its own path
        for path in map(finder.whole, names):
            if path is not None:
                self._is_own[finder.file(path)] = True
        self._record = array("q", [-1]) * len(finder)  # of each file
        self._record_of_missing: dict[str, int] = {}
        self._names = Texts()  # the first name of each record
        self._is_used = bytearray(len(finder))  # whether a path is that of a record
        self._missing: list[str] = []
        # What the notes say, each with an example: names, and in what they differ from their files.
        self._inexact: dict[str, list[tuple[str, str]]] = defaultdict(list)
        self._ambiguous: list[tuple[str, Sequence[str]]] = []
        self._similar: list[tuple[str, str]] = []
        self._renamed: dict[int, tuple[str, str]] = {}
        self._in_two_splits: dict[int, str] = {}

    def add(self, name: str, split: str | None, id: str | None = None, folder: str = "") -> None:
        """Add a name of an image; the captions of another name of its file are joined with those of the first.

        Args:
            name: of the image.
            split: one of `SPLITS`, or None; of several names of a file, the first that has a split decides.
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
            if match.paths:
                self._ambiguous.append((name, match.paths))
            key = id or plain_path(path)
            record = self._record_of_missing.setdefault(key, len(self.records))
            if record == len(self.records):
                self._missing.append(path)
        else:
            file = self._finder.file(found)
            self._is_used[self._finder.number(found)] = True
            if match.difference:
                self._inexact[match.difference].append((name, path))
            if self._record[file] < 0:
                self._record[file] = len(self.records)
            record = self._record[file]
        if record == len(self.records):
            self.records.add(id or path, path, split)
            self._names.append(name)
        else:
            self._join(record, name, split)

    def _is_of_another(self, name: str, found: str, difference: str) -> bool:
        """Whether the image of a name that differs from it is listed under its own name."""
        plain, path = f"/{plain_path(name)}", f"/{found}"
        differs = bool(difference) or not (plain.endswith(path) or path.endswith(plain))
        return differs and bool(self._is_own[self._finder.file(found)]) and self._finder.whole(name) is None

    def _join(self, record: int, name: str, split: str | None) -> None:
        """Let another name belong to a record."""
        first, own = self._names[record], self.records.split(record)
        self._renamed.setdefault(record, (first, name))
        if split and own and split != own:
            self._in_two_splits.setdefault(record, f"{first} in {own}, {name} in {split}")
        self.records.set_split(record, own or split)
        self.records.join(record)

    def source(self, format: str, notes: Iterable[str] = ()) -> Source:
        """Return the source with all images that were added.

        Args:
            format: the reader's name.
            notes: of the source; those about the names of images are added.
        """
        number = self._finder.number
        return Source(
            format=format,
            root=self._finder.root,
            records=self.records.build(),
            missing=self._missing,
            unlisted=[path for path in self._finder.paths if not self._is_used[number(path)]],
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
        notes: of the source; they are looked at after the rows.

    Raises:
        SourceError: one name is in two splits.
    """
    records = RecordsBuilder()
    numbers: dict[str, int] = {}
    splits: list[str | None] = []
    conflict = ""  # the rows after it may hold an error that explains it
    for name, split, texts in rows:
        number = numbers.setdefault(name, len(numbers))
        if number == len(splits):
            splits.append(split)
        elif splits[number] != split:
            fact = f"{name} is in two splits, {splits[number]} and {split}"
            conflict = conflict or f"{fact}; remove it from one of them"
        for text in texts:
            if text.strip():
                records.add_caption(number, text)
    if conflict:
        raise SourceError(conflict)
    listing = Listing(finder, numbers, records)
    for name, split in zip(numbers, splits, strict=True):
        listing.add(name, split)
    return listing.source(format, notes)


def known_split(name: str) -> str | None:
    """Return the split that a column or the name of a folder stands for, or None if it is not a split."""
    return _SPLIT_NAMES.get(name.strip().lower())


def path_split(path: str) -> str | None:
    """Return the split that a folder of the path, or its last name, begins with; of several, the outermost.

    `test/0.tar`, `train-00000-of-00002.parquet` and `val2014.tar` begin with a split, and `trainer.tar` does not.
    """
    words = (re.match("[A-Za-z]*", part) for part in PurePosixPath(path).parts)
    return next((split for word in words if word and (split := known_split(word[0]))), None)


def read_text(file: Path) -> str:
    r"""Read a UTF-8 file, with or without a byte-order mark; line ends of any system become `\n`.

    Raises:
        SourceError: the file cannot be read, is not UTF-8, or has more than `MAX_TEXT_BYTES`.
    """
    try:
        return files.read_text(file)
    except UnicodeDecodeError as error:
        raise _not_utf8(file, error.start, error) from error
    except OSError as error:
        raise unreadable(file, error, "give another file") from error


def read_lines(file: Path) -> Iterator[str]:
    r"""Yield the lines of a UTF-8 file without their line ends, reading it as they are taken.

    Lines end at `\n` alone. `str.splitlines` would also break a caption at U+2028, U+2029, U+0085, vertical tabs and
    form feeds.

    Raises:
        SourceError: the file cannot be read, is not UTF-8, or has a line of more than `MAX_LINE` characters.
    """
    try:
        with files.open_text(file) as lines:
            number = 0
            try:
                while line := lines.readline(MAX_LINE + 1):
                    number += 1
                    if len(line) > MAX_LINE:
                        raise SourceError(f"{file} line {number:,} has more than {MAX_LINE:,} characters; shorten it")
                    yield line.removesuffix("\n")
            except UnicodeDecodeError as error:
                raise _not_utf8(file, lines.buffer.tell() - len(error.object) + error.start, error) from error
    except OSError as error:
        raise unreadable(file, error, "give another file") from error


def first_line(file: Path) -> str:
    """Return the first line of a text file, or its first 10,000 characters; bytes that are not UTF-8 are replaced.

    Raises:
        OSError: it cannot be read.
    """
    with files.open_text(file, errors="replace") as lines:
        return lines.readline(10_000).strip()


def identifier(value: Any) -> str:
    """Return the id of an image in JSON as text. A whole number may be written as `391895.0`, as tables write it.

    Raises:
        TypeError: it is neither a number nor a text, or is empty.
    """
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int | str) or value == "":
        raise TypeError(f"{value!r:.60} is no id; an id is a number or a text")
    return str(value)


def _not_utf8(file: Path, position: int, error: UnicodeDecodeError) -> SourceError:
    fact = f"{file} is not UTF-8 (byte {position:,} is 0x{error.object[error.start]:02x})"
    return SourceError(f"{fact}; save it as UTF-8")
