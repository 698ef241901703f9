"""Walks the files below a folder, and each real folder once, also where symbolic links make a cycle.

It reads folders only: no file is opened, and only folders and symbolic links cost a `stat`.
"""

import logging
import os
from collections import deque
from collections.abc import Iterator
from pathlib import Path

from clipcap.data.errors import unreadable

logger = logging.getLogger(__name__)

_MANY = 10_000  # folders


class Walk:
    """The folders below a folder, with the files in each; hidden ones are left out, and links are followed.

    Of several paths of one folder, the first without a link is taken:

        train/          walked
        all -> train    in `links`
        more -> /more   walked, for no other path leads there

    Args:
        root: what all paths are relative to.
        start: the folder to walk, relative to the root; empty for the root itself.

    Attributes:
        links: for each path of a folder that was walked under another path, that path. Complete after the iteration.
    """

    def __init__(self, root: Path, start: str = "") -> None:
        self.links: dict[str, str] = {}
        self._root = root
        self._start = start

    def __iter__(self) -> Iterator[tuple[str, list["os.DirEntry[str]"]]]:
        """Yield the path of each folder, and its files in sorted order. The folders are in no useful order.

        A walk that takes long says so.

        Raises:
            SourceError: a folder cannot be read.
        """
        seen: dict[tuple[int, int] | str, str] = {}
        folders, linked = deque([self._start]), deque[str]()
        while folders or linked:
            path = folders.popleft() if folders else linked.popleft()
            try:
                status = (self._root / path).stat()
                # Some network drives give every folder the inode 0.
                key = (status.st_dev, status.st_ino) if status.st_ino else os.path.realpath(self._root / path)
                known = seen.setdefault(key, path)
                if known != path:
                    self.links[path] = known
                    continue
                if len(seen) % _MANY == 0:
                    logger.info(f"{self._root}: {len(seen):,} folders so far, now in {path}")
                with os.scandir(self._root / path) as entries:
                    visible = sorted((entry for entry in entries if entry.name[0] != "."), key=lambda entry: entry.name)
            except OSError as error:
                raise unreadable(self._root / path, error, "move it out of the dataset") from error
            files = []
            for entry in visible:
                if not _is_folder(entry):
                    files.append(entry)
                else:
                    (linked if entry.is_symlink() else folders).append(f"{path}/{entry.name}".lstrip("/"))
            yield path, files


def walk_files(root: Path, endings: tuple[str, ...]) -> Iterator[Path]:
    """Yield every file below a folder in sorted order, except hidden files and those in hidden folders.

    Args:
        root: the folder.
        endings: in lower case; the name of a file ends with one of them, in any case.

    Raises:
        SourceError: a folder cannot be read.
    """
    for folder, entries in sorted(Walk(root), key=lambda found: found[0].split("/")):
        yield from (root / folder / entry.name for entry in entries if entry.name.lower().endswith(endings))


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False
