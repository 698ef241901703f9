"""Writes files and folders so that a crash at any moment leaves the old one or the new one, never a part of one.

A new file or folder is made under a temporary name beside its own, synced to disk, and renamed:

    .cache.h5.partial  --write, sync-->  .cache.h5.partial  --rename-->  cache.h5
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from clipcap.data.errors import ClipCapError, one_line

# Flags of os.open that create a file. An existing file of that name is not reused and a link is not followed.
NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)


def write_file(path: Path, data: bytes) -> None:
    """Write `data` to `path`, completely or not at all.

    Raises:
        ClipCapError: the file cannot be written (a full disk, no permission). No part of it is left behind.
    """
    with open_whole(path) as file:
        file.write(data)


@contextmanager
def open_whole(path: Path) -> Iterator[BinaryIO]:
    """Open a binary file that replaces `path` when the block ends, and is removed when the block raises.

    A temporary file that a killed run left is removed first. So is a link of that name, which is never followed.

    Raises:
        ClipCapError: the file cannot be written (a full disk, no permission). No part of it is left behind.
    """
    temporary = path.with_name(f".{path.name}.partial")
    try:
        temporary.unlink(missing_ok=True)
        with os.fdopen(os.open(temporary, NEW_FILE, 0o666), "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)  # noqa: PTH105 - tests crash the program at this name
        sync_folder(path.parent)
    except OSError as error:
        _remove_file(temporary)
        reason = error.strerror or one_line(error)
        raise ClipCapError(f"{path} cannot be written: {reason}; fix that and run the same command again") from error
    except Exception:  # raised by the caller's block, so the file is incomplete
        _remove_file(temporary)
        raise


def make_new_folder(path: Path) -> None:
    """Make an empty folder. An old folder, file or link of that name is removed; a link is not followed.

    Raises:
        OSError: the folder cannot be made.
    """
    _remove(path)
    path.mkdir(parents=True)


def replace_folder(new: Path, path: Path) -> None:
    """Put the finished folder `new` in the place of `path`.

    A folder cannot be renamed over another that holds files, so the old one is renamed first. After a crash between
    the two renames, `recover_folder` brings it back.

    Raises:
        OSError: a file cannot be synced, or a folder cannot be renamed.
    """
    for child in (new, *new.rglob("*")):
        if child.is_dir():
            sync_folder(child)
        else:
            with child.open("r+b") as handle:  # Windows syncs only what is open for writing
                os.fsync(handle.fileno())
    aside = set_aside(path)
    _remove(aside)
    if path.exists():
        os.replace(path, aside)  # noqa: PTH105
    os.replace(new, path)  # noqa: PTH105
    sync_folder(path.parent)
    _remove(aside)


def recover_folder(path: Path) -> None:
    """Finish a `replace_folder` that a crash interrupted: the old folder comes back, unless the new one is in place.

    Raises:
        OSError: a folder cannot be renamed.
    """
    aside = set_aside(path)
    if path.exists():
        _remove(aside)
    elif aside.exists():
        os.replace(aside, path)  # noqa: PTH105


def sync_folder(folder: Path) -> None:
    """Sync the names in a folder to disk, so that a rename survives a power failure. POSIX systems only."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def set_aside(path: Path) -> Path:
    """Return the name of the old folder while `replace_folder` puts the new one in its place."""
    return path.with_name(f".{path.name}.old")


def _remove(path: Path) -> None:
    """Remove a folder with its content, or a file, or a link (not its target)."""
    if path.is_symlink() or path.is_file():
        path.unlink()
    shutil.rmtree(path, ignore_errors=True)


def _remove_file(path: Path) -> None:
    with suppress(OSError):
        path.unlink(missing_ok=True)
