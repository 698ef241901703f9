"""COCO as it is published: `annotations/captions_train2017.json` and the like, beside `train2017/` and `val2017/`.

A single caption file in the same layout is read as well, with its images anywhere below its folder. Other annotation
files (instances, keypoints) are ignored. If both years are present, only one is read: they consist of the same images
in different splits.
"""

import json
import re
from pathlib import Path
from typing import Any

from clipcap.data.errors import SourceError, one_line
from clipcap.data.readers.base import Columns, Reader
from clipcap.data.readers.images import ImageFinder, Listing
from clipcap.data.records import Source

_NAME = re.compile(r"captions_(train|val)(2014|2017)\.json")
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
            fact = f"{error.filename or path} cannot be read ({error.strerror})"
            raise SourceError(f"{fact}; check its permissions") from error

    def _read_folder(self, path: Path) -> Source:
        folders, notes = self._choose(path)
        prefixes = {file: folder.relative_to(path).as_posix() for file, folder in folders.items()}
        listing = Listing(ImageFinder(path, prefixes.values()))
        listed: dict[str, str] = {}
        for file, prefix in prefixes.items():
            split, _ = _split_and_year(file)
            entries, without_image = _entries(file)
            notes += _note_captions_without_image(file, without_image)
            for identifier, name, captions in entries:
                if identifier in listed:
                    first = listed[identifier]
                    raise SourceError(
                        f"{file} lists image {identifier}, which is listed before as {first}; ids must be unique"
                    )
                listed[identifier] = f"{prefix}/{name}"
                listing.add(name, split, captions, id=identifier, folder=prefix)
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
    entries, without_image = _entries(file)
    for identifier, name, captions in entries:
        listing.add(name, named[1] if named else None, captions, id=identifier)
    return listing.source("coco", _note_captions_without_image(file, without_image))


def _annotation_files(path: Path) -> list[Path]:
    folder = path / "annotations"
    if not folder.is_dir():
        return []
    return sorted(file for file in folder.iterdir() if _NAME.fullmatch(file.name) and file.is_file())


def _split_and_year(file: Path) -> tuple[str, str]:
    match = _NAME.fullmatch(file.name)
    assert match is not None
    return match[1], match[2]


def _image_folder(path: Path, split: str, year: str) -> Path | None:
    candidates = (path / f"{split}{year}", path / "images" / f"{split}{year}")
    return next((folder for folder in candidates if folder.is_dir()), None)


def _note_captions_without_image(file: Path, count: int) -> list[str]:
    return [f"{count:,} captions in {file.name} were left out, because it does not list their images"] if count else []


def _entries(file: Path) -> tuple[list[tuple[str, str, tuple[str, ...]]], int]:
    """Read one annotation file.

    Returns:
        (id, file name, captions) of each image in the order of `images`, and the number of captions whose image is not
        in `images`.
    """
    without_image = 0
    try:
        content: Any = json.loads(file.read_bytes())
        captions: dict[Any, list[str]] = {image["id"]: [] for image in content["images"]}
        for annotation in content["annotations"]:
            if annotation["image_id"] in captions:
                captions[annotation["image_id"]].append(_text(annotation["caption"]))
            else:
                without_image += 1
        images = [(image["id"], _text(image["file_name"])) for image in content["images"]]
        return [(str(identifier), name, tuple(captions[identifier])) for identifier, name in images], without_image
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        fact = f"{type(error).__name__}: {one_line(error)}"
        raise SourceError(
            f'{file} is not a COCO caption file ({fact}); it needs "images" with id and file_name, and "annotations" '
            "with image_id and caption; fix it, or move it out of the folder"
        ) from error


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is not text")
    return value
