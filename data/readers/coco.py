"""COCO in its own layout: `annotations/captions_{train,val}{2014,2017}.json` beside `train2017/`, `val2017/`, ...

Other annotation files (instances, keypoints) are left alone. Where both years are there, one is read: they are the
same pictures, split differently.
"""

import json
import re
from pathlib import Path
from typing import Any

from clipcap.data.errors import SourceError, one_line
from clipcap.data.records import Record, Source

_NAME = re.compile(r"captions_(train|val)(2014|2017)\.json")
_PICTURES = {".jpg", ".jpeg", ".png"}


class CocoReader:
    """Captions as COCO publishes them: one JSON a split, with `images` and `annotations`."""

    wants = "annotations/captions_train2017.json or the like (val, 2014), beside train2017/ and val2017/"

    def matches(self, path: Path) -> bool:
        return bool(_annotation_files(path))

    def read(self, path: Path) -> Source:
        files = _annotation_files(path)
        if not files:
            raise SourceError(f"{path} has no COCO captions; looked for {self.wants}")
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
        years = sorted({_split_and_year(file)[1] for file in files})
        if len(years) > 1:
            notes.append(f"captions of {years[0]} left alone: they are the same pictures as those of {years[1]}")
            files = [file for file in files if _split_and_year(file)[1] == years[1]]

        records: dict[str, Record] = {}
        missing: list[str] = []
        unlisted: list[str] = []
        for file in files:
            split, _ = _split_and_year(file)
            folder = folders[file]
            assert folder is not None
            here = {child.name for child in folder.iterdir() if child.suffix.lower() in _PICTURES}
            prefix = folder.relative_to(path).as_posix()
            for identifier, name, captions in _entries(file):
                if identifier in records:
                    first = records[identifier].path
                    raise SourceError(f"{file} lists picture {identifier} again (first as {first}); ids must be unique")
                records[identifier] = Record(identifier, f"{prefix}/{name}", split, captions)
                if name not in here:
                    missing.append(f"{prefix}/{name}")
                here.discard(name)
            unlisted.extend(f"{prefix}/{name}" for name in sorted(here))
        return Source(
            format="coco", root=path, records=list(records.values()), missing=missing, unlisted=unlisted, notes=notes
        )


def _annotation_files(path: Path) -> list[Path]:
    folder = path / "annotations"
    if not folder.is_dir():
        return []
    return sorted(file for file in folder.iterdir() if _NAME.fullmatch(file.name))


def _split_and_year(file: Path) -> tuple[str, str]:
    match = _NAME.fullmatch(file.name)
    assert match is not None
    return match[1], match[2]


def _picture_folder(path: Path, split: str, year: str) -> Path | None:
    candidates = (path / f"{split}{year}", path / "images" / f"{split}{year}")
    return next((folder for folder in candidates if folder.is_dir()), None)


def _entries(file: Path) -> list[tuple[str, str, tuple[str, ...]]]:
    """(id, file name, captions) of each picture of one annotation file, in the order of its `images`."""
    try:
        content: Any = json.loads(file.read_text(encoding="utf-8"))
        captions: dict[Any, list[str]] = {image["id"]: [] for image in content["images"]}
        for annotation in content["annotations"]:
            captions[annotation["image_id"]].append(str(annotation["caption"]))
        return [
            (str(image["id"]), str(image["file_name"]), tuple(captions[image["id"]])) for image in content["images"]
        ]
    except (ValueError, KeyError, TypeError) as error:
        fact = f"{type(error).__name__}: {one_line(error)}"
        raise SourceError(
            f"{file} is not a COCO caption file ({fact}); it needs `images` with id and file_name, and `annotations` "
            "with image_id and caption; download it again or take it out of the folder"
        ) from error
