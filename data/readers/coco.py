"""COCO in its own layout: `annotations/captions_{train,val}{2014,2017}.json` beside `train2017/`, `val2017/`, ...

Or a single file of that layout, with its pictures anywhere below the folder that it belongs to.

Other annotation files (instances, keypoints) are left alone. Where both years are there, one is read: they are the
same pictures, split differently.
"""

import json
import re
from pathlib import Path
from typing import Any

from clipcap.data.errors import SourceError, one_line
from clipcap.data.readers.base import Columns, Reader
from clipcap.data.readers.images import SUFFIXES, ImageFinder
from clipcap.data.records import Record, Source

_NAME = re.compile(r"captions_(train|val)(2014|2017)\.json")
_ONE_FILE = re.compile(r"captions_(train|val|test).*\.json")


class CocoReader(Reader):
    """Captions as COCO publishes them: one JSON a split, with `images` and `annotations`."""

    expected_layout = "annotations/captions_train2017.json or the like (val, 2014), beside train2017/ and val2017/"

    def matches(self, path: Path) -> bool:
        try:
            return bool(_annotation_files(path)) or (path.is_file() and _ONE_FILE.match(path.name) is not None)
        except OSError:
            return False

    def read(self, path: Path, columns: Columns) -> Source:
        try:
            return self._read(path)
        except OSError as error:
            fact = f"{error.filename or path} cannot be read ({error.strerror})"
            raise SourceError(f"{fact}; see to its permissions") from error

    def _read(self, path: Path) -> Source:
        if path.is_file():
            return _read_one_file(path)
        files = _annotation_files(path)
        if not files:
            raise SourceError(f"{path} has no COCO captions; looked for {self.expected_layout}")
        notes: list[str] = []
        folders = {file: _picture_folder(path, *_split_and_year(file)) for file in files}
        for file in [file for file in files if folders[file] is None]:
            split, year = _split_and_year(file)
            notes.append(f"{file.name} left alone: there is no folder {split}{year}/")
        files = [file for file in files if folders[file] is not None]
        if not files:
            raise SourceError(
                f"{path} has COCO captions but none of their picture folders (train2017/, val2017/ or 2014); unpack "
                "the pictures beside annotations/"
            )
        # Both years hold the same pictures, split differently: only one can be read. One that can be trained on, then
        # the newer.
        kinds = {_split_and_year(file) for file in files}
        year = max({year for _, year in kinds}, key=lambda year: (("train", year) in kinds, year))
        notes.extend(
            f"{file.name} left alone: its pictures are among those of {year}, in other splits"
            for file in files
            if _split_and_year(file)[1] != year
        )
        files = [file for file in files if _split_and_year(file)[1] == year]

        records: dict[str, Record] = {}
        missing: list[str] = []
        unlisted: list[str] = []
        for file in files:
            split, _ = _split_and_year(file)
            folder = folders[file]
            assert folder is not None
            here = {child.name for child in folder.iterdir()}
            prefix = folder.relative_to(path).as_posix()
            entries, strays = _entries(file)
            if strays:
                notes.append(f"{strays:,} captions in {file.name} left out: their pictures are not in its `images`")
            for identifier, name, captions in entries:
                if identifier in records:
                    first = records[identifier].path
                    raise SourceError(f"{file} lists picture {identifier} again (first as {first}); ids must be unique")
                records[identifier] = Record(identifier, f"{prefix}/{name}", split, captions)
                if name not in here and not (folder / name).is_file():
                    missing.append(f"{prefix}/{name}")
                here.discard(name)
            pictures = sorted(name for name in here if Path(name).suffix.lower() in SUFFIXES)
            unlisted.extend(f"{prefix}/{name}" for name in pictures)
        return Source(
            format="coco", root=path, records=list(records.values()), missing=missing, unlisted=unlisted, notes=notes
        )


def _read_one_file(file: Path) -> Source:
    """A single annotation file: its pictures are looked for beside it, or beside its `annotations/`."""
    root = file.parent.parent if file.parent.name == "annotations" else file.parent
    pictures = ImageFinder(root)
    named = _ONE_FILE.match(file.name)
    entries, strays = _entries(file)
    records = [
        Record(identifier, pictures.find(name) or name, named[1] if named else None, captions)
        for identifier, name, captions in entries
    ]
    used = {record.path for record in records}
    known = set(pictures.paths)
    return Source(
        format="coco",
        root=root,
        records=records,
        missing=[record.path for record in records if record.path not in known],
        unlisted=[path for path in pictures.paths if path not in used],
        notes=[f"{strays:,} captions in {file.name} left out: their pictures are not in its `images`"]
        if strays
        else [],
    )


def _annotation_files(path: Path) -> list[Path]:
    folder = path / "annotations"
    if not folder.is_dir():
        return []
    return sorted(file for file in folder.iterdir() if _NAME.fullmatch(file.name) and file.is_file())


def _split_and_year(file: Path) -> tuple[str, str]:
    match = _NAME.fullmatch(file.name)
    assert match is not None
    return match[1], match[2]


def _picture_folder(path: Path, split: str, year: str) -> Path | None:
    candidates = (path / f"{split}{year}", path / "images" / f"{split}{year}")
    return next((folder for folder in candidates if folder.is_dir()), None)


def _entries(file: Path) -> tuple[list[tuple[str, str, tuple[str, ...]]], int]:
    """(id, file name, captions) of each picture in the order of `images`, and the number of captions of no picture."""
    strays = 0
    try:
        content: Any = json.loads(file.read_bytes())
        captions: dict[Any, list[str]] = {image["id"]: [] for image in content["images"]}
        for annotation in content["annotations"]:
            if annotation["image_id"] in captions:
                captions[annotation["image_id"]].append(_text(annotation["caption"]))
            else:
                strays += 1
        images = [(image["id"], _text(image["file_name"])) for image in content["images"]]
        return [(str(identifier), name, tuple(captions[identifier])) for identifier, name in images], strays
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        fact = f"{type(error).__name__}: {one_line(error)}"
        raise SourceError(
            f"{file} is not a COCO caption file ({fact}); it needs `images` with id and file_name, and `annotations` "
            "with image_id and caption; mend it, or take it out of the folder"
        ) from error


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} where a text should be")
    return value
