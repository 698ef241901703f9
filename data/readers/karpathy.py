"""Karpathy's splits of COCO, Flickr8k and Flickr30k: `dataset_coco.json` and the like, with the original images.

{"images": [{"filename", "filepath", "split", "sentences": [{"raw"}], "imgid", "cocoid"}], "dataset": "coco"}
"""

import re
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from clipcap.data.errors import SourceError, one_line, unreadable
from clipcap.data.readers.base import Columns, FileReader
from clipcap.data.readers.images import ImageFinder, group_captions
from clipcap.data.readers.json_stream import INVALID, json_lists, whole_lists
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
                return group_captions("karpathy", finder, _rows(json_lists(file, "images")))
            except INVALID as error:
                rows = list(_rows(whole_lists(file, error, "images")))
        except OSError as error:
            raise unreadable(file, error, "give another file") from error
        except INVALID as error:
            fact = f"{type(error).__name__}: {one_line(error)}"
            raise SourceError(
                f'{file} is not a file of Karpathy\'s ({fact}); it needs "images" with filename, split and sentences'
            ) from error
        return group_captions("karpathy", finder, rows)


def _rows(lists: Iterable[tuple[str, Iterable[Any]]]) -> Iterator[tuple[str, str, list[str]]]:
    """Yield the images as `group_captions` takes them."""
    for image in chain.from_iterable(images for _, images in lists):
        parts = [part for part in (image.get("filepath"), image["filename"]) if part]
        captions = [sentence["raw"] for sentence in image["sentences"]]
        if not parts or not all(isinstance(text, str) for text in (*parts, *captions)):
            raise TypeError(f"a name or a caption is not text in {image!r:.80}")
        yield "/".join(parts), _SPLITS[image["split"]], captions
