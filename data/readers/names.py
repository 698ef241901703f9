"""Finds paths by names that differ from them a little: in Unicode form, in case, or by a missing suffix.

It knows nothing of files. A name fits a path that ends with it:

    name             fits                        difference
    train/1.jpg      flickr/train/1.jpg          none
    café.jpg (NFC)   café.jpg (NFD, of macOS)    Unicode form
    img_1.jpg        IMG_1.JPG                   case
    img_1            img_1.jpg                   suffix
"""

import unicodedata
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

UNICODE_FORM = "differ in Unicode form"


@dataclass(frozen=True, slots=True)
class Match:
    """What a name stands for.

    Attributes:
        paths: all paths that the name fits equally well; none or several if it stands for no single one.
        difference: what names like this do that is not exact, such as "differ in case"; empty for an exact match.
    """

    paths: Sequence[str] = ()
    difference: str = ""

    @property
    def path(self) -> str | None:
        """The path, or None if the name stands for no single one."""
        return self.paths[0] if len(self.paths) == 1 else None


class NameIndex:
    """Finds paths by their ends. An index is built for names of each depth when the first of them is looked up.

    Args:
        paths: of files with a suffix, with forward slashes.
    """

    def __init__(self, paths: Sequence[str]) -> None:
        self._paths = paths
        self._depth = max((path.count("/") + 1 for path in paths), default=0)
        self._by_end: dict[int, dict[str, list[str]]] = {}
        self._ambiguous: dict[tuple[str, str, int | None], Match] = {}

    def match(self, name: str, folder: str = "") -> Match:
        """Return the paths that end with the name, or else with its last part.

        The smallest difference that any path has counts. Of paths with the same one, a path that consists of the name
        alone comes before those that only end with it.

        Args:
            name: with forward slashes.
            folder: the paths must be in this folder or below it.
        """
        match = self._match_end(name, folder, prefer=name.count("/") + (folder.count("/") + 1 if folder else 0))
        last = name.rpartition("/")[2]
        return match if match.paths or last == name else self._match_end(last, folder)

    def _match_end(self, name: str, folder: str, prefer: int | None = None) -> Match:
        """Match the name with ends of as many parts; of several paths, those with `prefer` slashes win."""
        if (name, folder, prefer) in self._ambiguous:  # thousands of folders may hold an image of the same name
            return self._ambiguous[name, folder, prefer]
        length = name.count("/") + 1
        candidates = {path: _end(path, length) for path in self._with_similar_end(name, length)}
        if folder:
            candidates = {path: end for path, end in candidates.items() if path.startswith(f"{folder}/")}
        for difference, fits in _DIFFERENCES.items():
            found = [path for path, end in candidates.items() if fits(end, name)]
            if found:
                match = Match([path for path in found if path.count("/") == prefer] or found, difference)
                if len(match.paths) > 1:
                    self._ambiguous[name, folder, prefer] = match
                return match
        return Match()

    def _with_similar_end(self, name: str, length: int) -> list[str]:
        """Return a few paths, among them all that fit the name with any difference."""
        if length > self._depth:
            return []
        if length not in self._by_end:
            index: dict[str, list[str]] = defaultdict(list)
            for path in self._paths:
                if path.count("/") + 1 >= length:
                    index[_caseless(_stem(_end(path, length)))].append(path)
            self._by_end[length] = index
        keys = dict.fromkeys([_caseless(_stem(name)), _caseless(name)])  # a name that lacks the suffix may hold a dot
        return [path for key in keys for path in self._by_end[length].get(key, ())]


def _end(path: str, length: int) -> str:
    """Return the last parts of a path."""
    return "/".join(path.rsplit("/", length)[-length:])


def _stem(path: str) -> str:
    stem, dot, suffix = path.rpartition(".")
    return stem if dot and "/" not in suffix else path


def _nfc(text: str) -> str:
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def _caseless(text: str) -> str:
    return _nfc(_nfc(text).casefold())


# From the smallest to the largest: what names do, and whether the end of a path fits a name with that difference.
_DIFFERENCES: dict[str, Callable[[str, str], bool]] = {
    "": lambda end, name: end == name,
    UNICODE_FORM: lambda end, name: _nfc(end) == _nfc(name),
    "differ in case": lambda end, name: _caseless(end) == _caseless(name),
    "lack the suffix": lambda end, name: _nfc(_stem(end)) == _nfc(name),
    "differ in case and lack the suffix": lambda end, name: _caseless(_stem(end)) == _caseless(name),
}
