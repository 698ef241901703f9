"""Writing files and folders so that a crash at any moment leaves the old one, the new one, but never half of one."""

import contextlib
import os
import shutil
from pathlib import Path

from clipcap.data.errors import ClipCapError, one_line


def write_file(path: Path, data: bytes) -> None:
    """Write `data` to `path`: under a temporary name first, synced, then renamed over the old file.

    Raises:
        ClipCapError: the file cannot be written (a full disk, no permission). Nothing is left behind.
    """
    temporary = path.with_name(f".{path.name}.partial")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)  # noqa: PTH105 - tests crash the program at this name
        sync_folder(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        reason = error.strerror or one_line(error)
        raise ClipCapError(f"{path} cannot be written: {reason}; mend that and run the same command again") from error


def replace_folder(new: Path, path: Path) -> None:
    """Put the finished folder `new` in the place of `path`.

    A folder cannot be renamed over another that holds files, so the old one steps aside first. `recover_folder`
    mends what a crash between the two renames leaves.
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
    """Bring the old folder back where a crash came after it stepped aside and before the new one took its place."""
    if not path.exists() and set_aside(path).exists():
        os.replace(set_aside(path), path)  # noqa: PTH105


def sync_folder(folder: Path) -> None:
    """Make the names in a folder as lasting as the files they name (where the system can)."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def set_aside(path: Path) -> Path:
    """Where the old folder waits while `replace_folder` puts the new one in its place."""
    return path.with_name(f".{path.name}.old")
