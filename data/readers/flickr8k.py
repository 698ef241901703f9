"""Flickr8k as its authors published it: `Flickr8k.token.txt`, and lists of names that are the splits.

A line of the token file is `1000268201_693b08cb0e.jpg#0<TAB>A child in a pink dress .`; line ends are of either kind.
"""

from pathlib import Path

from clipcap.data.errors import SourceError
from clipcap.data.readers.base import Columns, Reader
from clipcap.data.readers.images import ImageFinder, group_captions, read_text
from clipcap.data.records import Source

_TOKENS = "Flickr8k.token.txt"
_LISTS = {"train": "Flickr_8k.trainImages.txt", "val": "Flickr_8k.devImages.txt", "test": "Flickr_8k.testImages.txt"}


class Flickr8kReader(Reader):
    """The token file and the split lists in one folder, with the pictures in it or below it."""

    expected_layout = f"{_TOKENS}, with {_LISTS['train']} and the like"

    def matches(self, path: Path) -> bool:
        return (path / _TOKENS).is_file()

    def read(self, path: Path, columns: Columns) -> Source:
        if not (path / _TOKENS).is_file():
            raise SourceError(f"{path} has no {_TOKENS}; looked for {self.expected_layout}")
        splits: dict[str, str] = {}
        for split, file in _LISTS.items():
            if not (path / file).is_file():
                continue
            for name in read_text(path / file).split():
                if splits.setdefault(name, split) != split:
                    raise SourceError(f"{name} is in two splits, {splits[name]} and {split}; mend {path / file}")
        rows, odd, unlisted = [], [], 0
        for number, line in enumerate(read_text(path / _TOKENS).splitlines(), 1):
            name, tab, text = line.partition("\t")
            name = name.rpartition("#")[0]
            if not (tab and name):
                odd += [number] if line.strip() else []
            elif splits and name not in splits:
                unlisted += 1
            else:
                rows.append((name, splits.get(name), [text]))
        notes = [f"{_TOKENS} line {number} left out: not a name, #, number, tab and caption" for number in odd[:5]]
        if len(odd) > 5:
            notes.append(f"and {len(odd) - 5:,} more such lines")
        if unlisted:
            notes.append(f"{unlisted:,} captions left out: their pictures are in no split list")
        return group_captions("flickr8k", ImageFinder(path), rows, notes)
