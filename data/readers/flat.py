"""A JSON list with one object per caption, as in rmokady/CLIP_prefix_caption and in Lahdhirim's repository.

[{"image_id": 522418, "id": 0, "caption": "A woman ..."}]    images are COCO's, named after their number
[{"image": "COCO_train2014_000000522418.jpg", "caption": "A woman ..."}]
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from clipcap.data.errors import SourceError, one_line, unreadable
from clipcap.data.files import open_file
from clipcap.data.readers.base import Columns, FileReader
from clipcap.data.readers.images import ImageFinder, group_captions, identifier
from clipcap.data.readers.json_stream import INVALID, json_items, json_whole
from clipcap.data.records import Source

_COCO_NAMES = ("COCO_train2014_{:012d}.jpg", "COCO_val2014_{:012d}.jpg", "{:012d}.jpg")


class FlatReader(FileReader):
    """Reads such a file, or the single one in a folder, with the images below the folder."""

    expected_layout = "a .json with [{image_id or image, caption}, ...]"

    def recognises(self, file: Path) -> bool:
        return file.suffix == ".json" and _begins_as_list(file)

    def read_file(self, file: Path, root: Path, columns: Columns) -> Source:
        finder = ImageFinder(root)
        try:
            try:
                return group_captions("flat", finder, _rows(finder, json_items(file)))
            except INVALID as error:
                rows = list(_rows(finder, json_whole(file, error)))
        except OSError as error:
            raise unreadable(file, error, "give another file") from error
        except INVALID as error:
            fact = f"{type(error).__name__}: {one_line(error)}"
            raise SourceError(
                f"{file} is not {self.expected_layout} ({fact}); fix it, or give another `format`"
            ) from error
        return group_captions("flat", finder, rows)


def _rows(finder: ImageFinder, entries: Iterable[Any]) -> Iterator[tuple[str, None, list[str]]]:
    """Yield the entries as `group_captions` takes them."""
    for entry in entries:
        name = entry["image"] if "image" in entry else _coco_name(finder, int(identifier(entry["image_id"])))
        if not (isinstance(name, str) and isinstance(entry["caption"], str)):
            raise TypeError(f"the name or caption is not text in {entry!r:.80}")
        yield name, None, [entry["caption"]]


def _coco_name(finder: ImageFinder, number: int) -> str:
    """Return the name of the COCO image with this number: the one that exists, if one does."""
    names = [form.format(number) for form in _COCO_NAMES]
    return next((name for name in names if finder.find(name) is not None), names[0])


def _begins_as_list(file: Path) -> bool:
    """Whether the first 4 KB of the file begin a list and contain a caption."""
    try:
        with open_file(file) as stream:
            head = stream.read(4096).decode("utf-8-sig", "replace")
    except OSError:
        return False
    return head.lstrip()[:1] == "[" and '"caption"' in head
