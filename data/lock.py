"""A lock that keeps two processes from writing to one folder or file at the same time.

The lock is `fcntl.flock` on a small file. The system drops it when the process ends, however that happens, so a file
that a killed process left locks nothing. Its content, JSON, only serves to name the holder in the error.

An flock belongs to the open file, which forked children share: a data loader's worker that outlives its parent would
keep the lock. So every child closes the file right after the fork, and programs that are executed never inherit it. (A
record lock, `fcntl.lockf`, is not shared with children, but is lost as soon as any code of the process opens and closes
the file, and does not exclude a second use in the same process.)
"""

import contextlib
import errno
import importlib
import json
import logging
import os
import shlex
import socket
import stat
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from clipcap.data.errors import ClipCapError, UsageError, one_line
from clipcap.data.files import parse_json

fcntl: Any = importlib.import_module("fcntl") if os.name == "posix" else None

logger = logging.getLogger(__name__)

# The lock files that this process has open.
_descriptors: set[int] = set()

_NO_LOCKS_HERE = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}


@contextlib.contextmanager
def hold_lock(path: Path, what: str) -> Iterator[None]:
    """Hold the lock of a folder or an output while inside.

    The file at `path` is created, filled with what identifies this process, and removed at the end. A file that a
    killed process left is taken over. Without `fcntl` (on Windows) the existence of the file is the lock, and a file
    that a killed process left must be deleted by hand.

    Args:
        path: the lock file, in a folder that exists.
        what: the name of what is locked, for the error, such as "runs/coco".

    Raises:
        UsageError: the lock is held, by another process or by this one; or `path` is something else than a lock file,
            such as a link or a file with other content, which is left untouched.
        ClipCapError: the file cannot be written.
    """
    path = path.absolute()  # the working folder may change
    process = os.getpid()
    descriptor = _acquire(path, what)
    _descriptors.add(descriptor)
    try:
        yield
    finally:
        if os.getpid() == process:  # not in a child that was forked inside
            _descriptors.discard(descriptor)
            _release(path, descriptor)


def _close_in_child() -> None:
    for descriptor in _descriptors:
        with contextlib.suppress(OSError):
            os.close(descriptor)
    _descriptors.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_in_child)


def _acquire(path: Path, what: str) -> int:
    """Open the lock file, lock it, and write to it who holds it; return its descriptor."""
    while True:
        descriptor = _open(path, what)
        try:
            locked = _lock(path, descriptor)
            content = _read(path, descriptor)
            if not locked:
                raise UsageError(f"{what} is in use by {_holder(content)}; wait for it, or stop it")
            # Between our open and our lock, the holder before us may have removed the file. Then a third process can
            # create and lock a new one, and the lock on ours excludes no one: try again.
            if _is_named(path, descriptor):
                os.ftruncate(descriptor, 0)
                os.write(descriptor, json.dumps(_this_process()).encode())
                return descriptor
        except OSError as error:
            os.close(descriptor)
            raise _cannot_be_written(path, error) from error
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _open(path: Path, what: str) -> int:
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
    if fcntl is None:
        flags |= os.O_EXCL
    try:
        return os.open(path, flags, 0o644)
    except FileExistsError as error:
        fact = f"{what} is in use, or a process that was killed left {path}"
        raise UsageError(f"{fact}; wait for the process to end, or delete that file") from error
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise UsageError(f"{path} is a symbolic link where a lock file belongs; remove the link") from error
        raise _cannot_be_written(path, error) from error


def _lock(path: Path, descriptor: int) -> bool:
    """Try to lock the open file; return whether this process may go on."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS_HERE:
            raise
        logger.warning(f"{path.parent} has no locks ({error.strerror}); do not start a second run there")
    return True


def _release(path: Path, descriptor: int) -> None:
    """Remove the lock file while it is still locked, then close it, which drops the lock."""
    with contextlib.suppress(OSError):
        if fcntl is not None and _is_named(path, descriptor):
            path.unlink()
    os.close(descriptor)
    with contextlib.suppress(OSError):
        if fcntl is None:  # Windows cannot remove an open file
            path.unlink()


def _is_named(path: Path, descriptor: int) -> bool:
    """Whether the open file is still the one at `path`."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.lstat())
    except FileNotFoundError:
        return False


def _read(path: Path, descriptor: int) -> dict[str, Any]:
    """Return the content of the lock file; empty where its process has not written it yet.

    Raises:
        UsageError: it is not a lock file, and must not be overwritten.
    """
    content: Any = None
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        text = os.read(descriptor, 1 << 16).strip(b"\0")  # a power cut may leave zeros
        os.lseek(descriptor, 0, os.SEEK_SET)
        with contextlib.suppress(ValueError):
            content = parse_json(text.decode() or "{}")
    if not isinstance(content, dict) or (content and "pid" not in content):
        raise UsageError(f"{path} is not a lock file of this program; move it out of the way")
    return content


def _this_process() -> dict[str, Any]:
    program, *arguments = sys.argv or [""]
    return {
        "version": 1,
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "since": time.strftime("%Y-%m-%d %H:%M:%S"),
        "command": shlex.join([Path(program).name, *arguments])[:200],
    }


def _holder(content: dict[str, Any]) -> str:
    """Name the process that holds the lock, such as "process 123 (clipcap-train a.h5, since 2025-01-01 12:00:00)"."""
    if not content:
        return "another process"
    where = "" if content.get("host") == socket.gethostname() else f" on {content.get('host')}"
    return f"process {content['pid']}{where} ({content.get('command')}, since {content.get('since')})"


def _cannot_be_written(path: Path, error: OSError) -> ClipCapError:
    reason = error.strerror or one_line(error)
    return ClipCapError(f"the lock file {path} cannot be written: {reason}; fix that and run the same command again")
