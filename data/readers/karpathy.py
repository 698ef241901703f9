"""Karpathy's splits of COCO, Flickr8k and Flickr30k: `dataset_coco.json` and the like, over the original pictures.

{"images": [{"filename", "filepath", "split", "sentences": [{"raw"}], "imgid", "cocoid"}], "dataset": "coco"}
"""

import json
import re
from pathlib import Path
from typing import Any

from clipcap.data.errors import SourceError, one_line
from clipcap.data.readers.base import Columns, Reader
from clipcap.data.readers.pictures import Pictures, group_captions, read_text
from clipcap.data.records import Source

_NAME = re.compile(r"dataset_(coco|flickr8k|flickr30k)\.json")
# `restval` are pictures of COCO's val2014 that the field trains on.
_SPLITS = {"train": "train", "restval": "train", "val": "val", "test": "test"}


class KarpathyReader(Reader):
    """One JSON with all splits, in the folder that holds the pictures, or the JSON itself."""

    wants = "dataset_coco.json, dataset_flickr8k.json or dataset_flickr30k.json, above its pictures"

    def matches(self, path: Path) -> bool:
        return _file(path) is not None

    def read(self, path: Path, columns: Columns) -> Source:
        file = _file(path) or path
        if file.is_dir():
            raise SourceError(f"{path} has no file of Karpathy's; looked for {self.wants}")
        rows = []
        try:
            content: Any = json.loads(read_text(file))
            for image in content["images"]:
                name = "/".join(part for part in (image.get("filepath"), image["filename"]) if part)
                texts = [sentence["raw"] for sentence in image["sentences"]]
                rows.append((name, _SPLITS[image["split"]], texts))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            fact = f"{type(error).__name__}: {one_line(error)}"
            raise SourceError(
                f"{file} is not one of Karpathy's files ({fact}); it needs `images` with filename, split and sentences"
            ) from error
        return group_captions("karpathy", Pictures(path if path.is_dir() else file.parent), rows)


def _file(path: Path) -> Path | None:
    if path.is_dir():
        folders = [folder for folder in (path, path / "annotations") if folder.is_dir()]
        found = sorted(child for folder in folders for child in folder.iterdir() if _NAME.fullmatch(child.name))
        return found[0] if len(found) == 1 else None
    return path if _NAME.fullmatch(path.name) else None
