"""Finds paths by names that differ from them a little: in Unicode form, in case, or by a missing suffix.

It knows nothing of files. A name fits a path that ends with it:

    name             fits                        difference
    train/1.jpg      flickr/train/1.jpg          none
    café.jpg (NFC)   café.jpg (NFD, of macOS)    Unicode form
    img_1.jpg        IMG_1.JPG                   case
    img_1            img_1.jpg                   suffix
"""

import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

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
    """Finds paths by their ends. The indexes for names of a depth are built when the first of them is looked up.

    Args:
        paths: of files with a suffix, with forward slashes.
    """

    def __init__(self, paths: Sequence[str]) -> None:
        self._paths = paths
        self._depth = max((path.count("/") + 1 for path in paths), default=0)
        self._indexes: dict[tuple[int, Callable[[str], str]], dict[str, str | list[str]]] = {}
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
        match = self._closest(name, folder)
        if len(match.paths) != 1:
            preferred = [path for path in match.paths if path.count("/") == prefer]
            match = self._ambiguous[name, folder, prefer] = replace(match, paths=preferred or match.paths)
        return match

    def _closest(self, name: str, folder: str) -> Match:
        """Return all paths whose end differs from the name the least."""
        length = name.count("/") + 1
        inside = f"{folder}/" if folder else ""
        exact = [path for path in self._look_up(length, str, name) if path.startswith(inside)]
        if exact:
            return Match(exact)
        keys = dict.fromkeys([_caseless_stem(name), _caseless(name)])  # a name that lacks the suffix may hold a dot
        near = (path for key in keys for path in self._look_up(length, _caseless_stem, key))
        similar = [path for path in near if path.startswith(inside)]
        ends = {path: _end(path, length) for path in similar}
        for difference, fits in _DIFFERENCES.items():
            found = [path for path, end in ends.items() if fits(end, name)]
            if found:
                return Match(found, difference)
        return Match()

    def _look_up(self, length: int, fold: Callable[[str], str], key: str) -> Sequence[str]:
        """Return the paths whose last `length` parts, folded, are the key."""
        if length > self._depth:
            return ()
        if (length, fold) not in self._indexes:
            self._indexes[length, fold] = self._index(length, fold)
        found = self._indexes[length, fold].get(key, ())
        return (found,) if isinstance(found, str) else found

    def _index(self, length: int, fold: Callable[[str], str]) -> dict[str, str | list[str]]:
        """Return the path, or the list of paths, for each end of `length` parts, folded."""
        index: dict[str, str | list[str]] = {}
        for path in self._paths:
            if path.count("/") + 1 < length:
                continue
            same = index.setdefault(fold(_end(path, length)), path)
            if isinstance(same, list):
                same.append(path)
            elif same is not path:
                index[fold(_end(path, length))] = [same, path]
        return index


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


def _caseless_stem(path: str) -> str:
    return _caseless(_stem(path))


# From the smallest to the largest: what inexact names do, and whether the end of a path fits a name that does it.
_DIFFERENCES: dict[str, Callable[[str, str], bool]] = {
    UNICODE_FORM: lambda end, name: _nfc(end) == _nfc(name),
    "differ in case": lambda end, name: _caseless(end) == _caseless(name),
    "lack the suffix": lambda end, name: _nfc(_stem(end)) == _nfc(name),
    "differ in case and lack the suffix": lambda end, name: _caseless_stem(end) == _caseless(name),
}
