r"""Flickr8k as its authors published it: `Flickr8k.token.txt`, and one list of image names per split.

A line of the token file is `1000268201_693b08cb0e.jpg#0<TAB>A child in a pink dress .`; some files end lines with
`\r\n`.
"""

from collections.abc import Iterator
from pathlib import Path

from clipcap.data.errors import SourceError
from clipcap.data.readers.base import Columns, Reader
from clipcap.data.readers.images import ImageFinder, group_captions, read_lines
from clipcap.data.records import Source

_TOKENS = "Flickr8k.token.txt"
_LISTS = {"train": "Flickr_8k.trainImages.txt", "val": "Flickr_8k.devImages.txt", "test": "Flickr_8k.testImages.txt"}


class Flickr8kReader(Reader):
    """Reads the token file and the split lists in one folder; the images are in it or below it."""

    expected_layout = f"{_TOKENS}, with {_LISTS['train']} and the lists of the other splits"

    def matches(self, path: Path) -> bool:
        return (path / _TOKENS).exists()

    def read(self, path: Path, columns: Columns) -> Source:
        if not self.matches(path):
            raise SourceError(f"{path} has no {_TOKENS}; expected {self.expected_layout}")
        notes: list[str] = []
        return group_captions("flickr8k", ImageFinder(path), _rows(path, _read_splits(path), notes), notes)


def _rows(path: Path, splits: dict[str, str], notes: list[str]) -> Iterator[tuple[str, str | None, list[str]]]:
    """Yield the rows of the token file as `group_captions` takes them, and add what there is to note."""
    odd, unlisted = [], 0
    for number, line in enumerate(read_lines(path / _TOKENS), 1):
        name, tab, text = line.partition("\t")
        name = name.rpartition("#")[0]
        if not (tab and name):
            odd += [number] if line.strip() else []
        elif splits and name not in splits:
            unlisted += 1
        else:
            yield name, splits.get(name), [text]
    notes += [f"{_TOKENS} line {number} is not `name#number<TAB>caption` and was left out" for number in odd[:5]]
    if len(odd) > 5:
        notes.append(f"{len(odd) - 5:,} more lines like these were left out")
    if unlisted:
        notes.append(f"{unlisted:,} captions were left out, because no split list has their images")


def _read_splits(path: Path) -> dict[str, str]:
    """Return the split of each image name; empty if there are no lists."""
    splits: dict[str, str] = {}
    for split, file in _LISTS.items():
        if not (path / file).exists():
            continue
        for name in filter(None, (line.strip() for line in read_lines(path / file))):
            if splits.setdefault(name, split) != split:
                raise SourceError(f"{name} is in two splits, {splits[name]} and {split}; remove it from {path / file}")
    return splits
