"""Writing files and folders so that a crash at any moment leaves the old one or the new one, never half of one."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from clipcap.data.errors import ClipCapError, one_line

# How a file that must not exist is opened: nothing of that name is reused or followed.
NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)


def write_file(path: Path, data: bytes) -> None:
    """Write `data` to `path`, whole or not at all.

    Raises:
        ClipCapError: the file cannot be written (a full disk, no permission). Nothing is left behind.
    """
    with open_whole(path) as file:
        file.write(data)


@contextmanager
def open_whole(path: Path) -> Iterator[BinaryIO]:
    """Open a file to write, which takes its name when it is complete: synced, then renamed over the old file.

    Until then it has a temporary name beside `path`. A link of that name is never followed: it is removed, as is what a
    run that died has left there.

    Raises:
        ClipCapError: the file cannot be written (a full disk, no permission). Nothing is left behind.
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
        _remove(temporary)
        reason = error.strerror or one_line(error)
        raise ClipCapError(f"{path} cannot be written: {reason}; fix that and run the same command again") from error
    except Exception:  # of the caller: the file is not complete
        _remove(temporary)
        raise


def _remove(path: Path) -> None:
    with suppress(OSError):
        path.unlink(missing_ok=True)


def make_new_folder(path: Path) -> None:
    """Make an empty folder. What a run that died has left there is removed; a link of that name is not followed.

    Raises:
        OSError: it cannot be made.
    """
    if path.is_symlink() or path.is_file():
        path.unlink()
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)


def replace_folder(new: Path, path: Path) -> None:
    """Put the finished folder `new` in the place of `path`.

    A folder cannot be renamed over another that holds files, so the old one is set aside first. After a crash between
    the two renames, `recover_folder` brings it back.
    """
    for child in (new, *new.rglob("*")):
        if child.is_dir():
            sync_folder(child)
        else:
            with child.open("rb") as handle:
                os.fsync(handle.fileno())
    aside = set_aside(path)
    shutil.rmtree(aside, ignore_errors=True)
    if path.exists():
        os.replace(path, aside)  # noqa: PTH105
    os.replace(new, path)  # noqa: PTH105
    sync_folder(path.parent)
    shutil.rmtree(aside, ignore_errors=True)


def recover_folder(path: Path) -> None:
    """Bring the old folder back if a crash came after it was set aside and before the new one took its place."""
    if not path.exists() and set_aside(path).exists():
        os.replace(set_aside(path), path)  # noqa: PTH105


def sync_folder(folder: Path) -> None:
    """Make the names in a folder as durable as the files that they name, where the system can."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def set_aside(path: Path) -> Path:
    """Where the old folder is while `replace_folder` puts the new one in its place."""
    return path.with_name(f".{path.name}.old")
