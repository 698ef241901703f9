"""A JSON list with one object a caption, as rmokady/CLIP_prefix_caption and Lahdhirim's repository have it.

[{"image_id": 522418, "id": 0, "caption": "A woman ..."}]    pictures are COCO's, called after their number
[{"image": "COCO_train2014_000000522418.jpg", "caption": "A woman ..."}]
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from clipcap.data.errors import SourceError, one_line
from clipcap.data.readers.base import Columns, FileReader
from clipcap.data.readers.images import ImageFinder, group_captions, read_text
from clipcap.data.records import Source

_COCO_NAMES = ("COCO_train2014_{:012d}.jpg", "COCO_val2014_{:012d}.jpg", "{:012d}.jpg")


class FlatReader(FileReader):
    """The list's file, or a folder with a single such file, with the pictures below the folder."""

    expected_layout = "a .json with [{image_id or image, caption}, ...]"

    def recognises(self, file: Path) -> bool:
        return file.suffix == ".json" and _begins_as_list(file)

    def read_file(self, file: Path, root: Path, columns: Columns) -> Source:
        pictures = ImageFinder(root)
        rows: list[tuple[str, str | None, Iterable[str]]] = []
        try:
            for entry in json.loads(read_text(file)):
                name = entry["image"] if "image" in entry else _coco_name(pictures, int(entry["image_id"]))
                if not (isinstance(name, str) and isinstance(entry["caption"], str)):
                    raise TypeError(f"{entry!r:.80} where names and captions should be texts")
                rows.append((name, None, [entry["caption"]]))
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            fact = f"{type(error).__name__}: {one_line(error)}"
            raise SourceError(
                f"{file} is not {self.expected_layout} ({fact}); mend it, or give another --format"
            ) from error
        return group_captions("flat", pictures, rows)


def _coco_name(pictures: ImageFinder, number: int) -> str:
    names = [form.format(number) for form in _COCO_NAMES]
    return next((name for name in names if pictures.find(name) is not None), names[0])


def _begins_as_list(file: Path) -> bool:
    """Whether the file begins as a list of objects that have a caption: enough of it to tell, not all of it."""
    try:
        with file.open("rb") as stream:
            head: Any = stream.read(4096).decode("utf-8-sig", "replace")
    except OSError:
        return False
    return head.lstrip()[:1] == "[" and '"caption"' in head
