"""Confines the image files that a dataset names to the dataset's folder.

Annotations come from strangers, and a name in them may lead anywhere: `../../.ssh/key`, `/etc/passwd`. A name that is
absolute or contains `..` is resolved with all links on its way; its folder and the file must be below the root:

    name (the root: /data/set)  leads to                read
    a.jpg, sub/a.jpg            below the root          yes
    link/a.jpg                  wherever the link does  yes
    sub/../a.jpg                below the root          yes
    /data/set/sub/a.jpg         below the root          yes
    ../a.jpg, /other/a.jpg      another folder          only if the user allows it
    link/../a.jpg               the link's parent       only if the user allows it

Other names go where the folders and links below the root go, as walking the root does. Such links are followed, those
to folders and those to files: they are made by someone who may write to the root, mostly its owner, whose images are on
another disk. An annotation cannot make links. An archive can, and links of a stranger's archive are to be refused when
it is unpacked, as `tarfile` does by its filter `data`: every later program would follow them.
"""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePath

from clipcap.data.errors import ImageError
from clipcap.data.image_store import FileStamp, FolderStore


def names_outside(root: Path, names: Iterable[str]) -> list[str]:
    """Return those names that are absolute or contain `..` and lead to a path that is not below a folder.

    Other names cost no look at the disk, and many names in one folder outside cost one.

    Args:
        root: the folder.
        names: relative to the folder, or absolute.
    """

    def is_below(path: PurePath) -> bool:
        try:
            return PurePath(os.path.realpath(root / path)).is_relative_to(os.path.realpath(root))
        except ValueError:  # no file can have the name
            return True

    is_folder_below = cache(is_below)  # of the folders of names
    outside = []
    for name in names:
        path = PurePath(name)
        if (path.anchor or ".." in path.parts) and not (is_folder_below(path.parent) and is_below(path)):
            outside.append(name)
    return outside


def leads_outside(root: Path, name: str) -> bool:
    """Return whether a name leads outside a folder, as `names_outside` does."""
    return bool(names_outside(root, [name]))


@dataclass(frozen=True)
class ConfinedStore(FolderStore):
    """Image files below a folder, and no others."""

    def read(self, path: str) -> bytes:
        self._check(path)
        return super().read(path)

    def stamp(self, path: str) -> FileStamp:
        self._check(path)
        return super().stamp(path)

    def _check(self, path: str) -> None:
        if leads_outside(self.root, path):
            raise ImageError("its name leads outside the dataset's folder (see `allow_outside`)")
