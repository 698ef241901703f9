"""COCO as it is published: `annotations/captions_train2017.json` and the like, beside `train2017/` and `val2017/`.

A single caption file in the same layout is read as well, with its images anywhere below its folder. Other annotation
files (instances, keypoints) are ignored. If both years are present, only one is read: they consist of the same images
in different splits.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipcap.data.errors import SourceError, one_line, unreadable
from clipcap.data.readers.base import Columns, Reader
from clipcap.data.readers.images import ImageFinder, Listing, identifier
from clipcap.data.readers.json_stream import INVALID, json_lists, whole_lists
from clipcap.data.records import RecordsBuilder, Source
from clipcap.data.texts import Texts

_NAME = re.compile(r"captions_(train|val)(2014|2017)\.json")
_LISTS = ("images", "annotations")
_SINGLE_FILE = re.compile(r"captions_(train|val|test).*\.json")


class CocoReader(Reader):
    """Reads COCO's captions: one JSON per split, with `images` and `annotations`."""

    expected_layout = "annotations/captions_train2017.json or the like (val, 2014), beside train2017/ and val2017/"

    def matches(self, path: Path) -> bool:
        try:
            return bool(_annotation_files(path)) or (path.is_file() and _SINGLE_FILE.match(path.name) is not None)
        except OSError:
            return False

    def read(self, path: Path, columns: Columns) -> Source:
        try:
            return _read_single_file(path) if path.is_file() else self._read_folder(path)
        except OSError as error:
            raise unreadable(Path(error.filename or path), error, "give another file") from error

    def _read_folder(self, path: Path) -> Source:
        folders, notes = self._choose(path)
        prefixes = {file: folder.relative_to(path).as_posix() for file, folder in folders.items()}
        listing = Listing(ImageFinder(path, prefixes.values()))
        read: list[tuple[str, _Images]] = []
        listed: set[str] = set()
        for file, prefix in prefixes.items():
            split, _ = _split_and_year(file)
            images = _read_file(file, listing.records)
            read.append((prefix, images))
            notes += _note_captions_without_image(file, images.captions_without)
            for id, name in zip(images.ids, images.names, strict=True):
                if id in listed:
                    first = "/".join(next(_names(read, id)))
                    raise SourceError(f"{file} lists image {id}, which is listed before as {first}; ids must be unique")
                listed.add(id)
                listing.add(name, split, id=id, folder=prefix)
        return listing.source("coco", notes)

    def _choose(self, path: Path) -> tuple[dict[Path, Path], list[str]]:
        """Choose the annotation files of one year.

        Returns:
            The folder of images of each chosen file, and a note about each of the others.
        """
        files = _annotation_files(path)
        if not files:
            raise SourceError(f"{path} has no COCO captions; expected {self.expected_layout}")
        notes: list[str] = []
        folders: dict[Path, Path] = {}
        for file in files:
            split, year = _split_and_year(file)
            folder = _image_folder(path, split, year)
            if folder is None:
                notes.append(f"{file.name} was ignored, because there is no folder {split}{year}/")
            else:
                folders[file] = folder
        if not folders:
            raise SourceError(
                f"{path} has COCO captions but none of their image folders (train2017/, val2017/ or 2014); unpack the "
                "images beside annotations/"
            )
        # A year that can be trained on goes first, then the newer year.
        found = {_split_and_year(file) for file in folders}
        chosen = max({year for _, year in found}, key=lambda year: (("train", year) in found, year))
        for file in [file for file in folders if _split_and_year(file)[1] != chosen]:
            del folders[file]
            notes.append(f"{file.name} was ignored, because its images are among those of {chosen}, in other splits")
        return folders, notes


def _read_single_file(file: Path) -> Source:
    """Read one annotation file; its images are beside it, or beside the `annotations/` that it is in."""
    root = file.parent.parent if file.parent.name == "annotations" else file.parent
    listing = Listing(ImageFinder(root))
    named = _SINGLE_FILE.match(file.name)
    images = _read_file(file, listing.records)
    for id, name in zip(images.ids, images.names, strict=True):
        listing.add(name, named[1] if named else None, id=id)
    return listing.source("coco", _note_captions_without_image(file, images.captions_without))


def _annotation_files(path: Path) -> list[Path]:
    folder = path / "annotations"
    if not folder.is_dir():
        return []
    return sorted(file for file in folder.iterdir() if _NAME.fullmatch(file.name))


def _split_and_year(file: Path) -> tuple[str, str]:
    match = _NAME.fullmatch(file.name)
    assert match is not None
    return match[1], match[2]


def _image_folder(path: Path, split: str, year: str) -> Path | None:
    candidates = (path / f"{split}{year}", path / "images" / f"{split}{year}")
    return next((folder for folder in candidates if folder.is_dir()), None)


def _note_captions_without_image(file: Path, count: int) -> list[str]:
    return [f"{count:,} captions in {file.name} were left out, because it does not list their images"] if count else []


@dataclass(frozen=True)
class _Images:
    """What one annotation file lists, in its order.

    Attributes:
        ids, names: of the images.
        captions_without: the number of captions whose image is not listed.
    """

    ids: Texts
    names: Texts
    captions_without: int


def _names(read: list[tuple[str, _Images]], identifier: str) -> Iterator[tuple[str, str]]:
    """Yield the folder and the name of the images with an id."""
    for folder, images in read:
        for other, name in zip(images.ids, images.names, strict=True):
            if other == identifier:
                yield folder, name


def _read_file(file: Path, records: RecordsBuilder) -> _Images:
    """Read one annotation file. Its captions are added to `records`, where its images are the next groups."""
    begin = records.caption_count()
    try:
        try:
            return _read_members(json_lists(file, *_LISTS), records)
        except INVALID as error:
            records.remove_captions(begin)
            return _read_members(whole_lists(file, error, *_LISTS), records)
    except INVALID as error:
        fact = f"{type(error).__name__}: {one_line(error)}"
        raise SourceError(
            f'{file} is not a COCO caption file ({fact}); it needs "images" with id and file_name, and "annotations" '
            "with image_id and caption; fix it, or move it out of the folder"
        ) from error


def _read_members(lists: Iterable[tuple[str, Iterable[Any]]], records: RecordsBuilder) -> _Images:
    """Read `images`, and then `annotations`."""
    ids, names, captions_without = Texts(), Texts(), 0
    group = records.group_count()  # of the first image
    number: dict[str, int] = {}  # of the first image with an id
    others: dict[int, list[int]] = defaultdict(list)  # the numbers of the others
    for key, items in lists:
        for item in items:
            if key == "images":
                id = identifier(item["id"])
                first = number.setdefault(id, len(ids))
                if first != len(ids):
                    others[first].append(len(ids))
                ids.append(id)
                names.append(_text(item["file_name"]))
                continue
            found = number.get(identifier(item["image_id"]))
            if found is None:
                captions_without += 1
                continue
            caption = _text(item["caption"])
            for image in (found, *others.get(found, ())):
                records.add_caption(group + image, caption)
    return _Images(ids, names, captions_without)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r:.60} is not text")
    return value
