"""Karpathy's splits of COCO, Flickr8k and Flickr30k: `dataset_coco.json` and the like, with the original images.

{"images": [{"filename", "filepath", "split", "sentences": [{"raw"}], "imgid", "cocoid"}], "dataset": "coco"}
"""

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from clipcap.data.errors import SourceError, one_line
from clipcap.data.readers.base import Columns, FileReader
from clipcap.data.readers.images import ImageFinder, group_captions, read_text
from clipcap.data.readers.json_stream import INVALID, json_members
from clipcap.data.records import Source

_NAME = re.compile(r"dataset_(coco|flickr8k|flickr30k)\.json")
# `restval` is the part of COCO's val2014 that is commonly trained on.
_SPLITS = {"train": "train", "restval": "train", "val": "val", "test": "test"}


class KarpathyReader(FileReader):
    """Reads one JSON with all splits: the file itself, or the folder that holds it and the images."""

    expected_layout = "dataset_coco.json, dataset_flickr8k.json or dataset_flickr30k.json, above its images"

    def candidates(self, folder: Path) -> Iterable[Path]:
        folders = [place for place in (folder, folder / "annotations") if place.is_dir()]
        return (file for place in folders for file in super(KarpathyReader, self).candidates(place))

    def recognises(self, file: Path) -> bool:
        return _NAME.fullmatch(file.name) is not None

    def read_file(self, file: Path, root: Path, columns: Columns) -> Source:
        finder = ImageFinder(root)
        try:
            try:
                return group_captions("karpathy", finder, _rows(json_members(file)))
            except (OSError, *INVALID):  # loading it as a whole says what is wrong
                rows = list(_rows([("images", json.loads(read_text(file))["images"])]))
        except INVALID as error:
            fact = f"{type(error).__name__}: {one_line(error)}"
            raise SourceError(
                f'{file} is not a file of Karpathy\'s ({fact}); it needs "images" with filename, split and sentences'
            ) from error
        return group_captions("karpathy", finder, rows)


def _rows(members: Iterable[tuple[str, Any]]) -> Iterator[tuple[str, str, list[str]]]:
    """Yield the images as `group_captions` takes them."""
    read: list[str] = []
    for key, images in members:
        if key != "images":
            continue
        read.append(key)
        for image in images:
            name = "/".join(part for part in (image.get("filepath"), image["filename"]) if part)
            yield name, _SPLITS[image["split"]], [sentence["raw"] for sentence in image["sentences"]]
    if read != ["images"]:
        raise ValueError(f"it has {read}")
