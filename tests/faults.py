"""A file system that fails, for tests: one call on the files below a folder raises, or that one and all after it."""

import builtins
import errno
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from small_world import Crash

# A broken disk, a full one, one that was mounted again read-only, and a mount that went away.
ERRORS = (errno.EIO, errno.ENOSPC, errno.EROFS, errno.ESTALE)

CHANGES = ("fsync", "mkdir", "rename", "replace", "rmdir", "unlink")
READS = ("listdir", "lstat", "open", "scandir", "stat")


class Faults:
    """Lets calls of the file system fail.

    Args:
        monkeypatch: undoes it.
        folder: whose files count; calls on an open file all do.
        at: number of the call that fails, from 0; None if none does.
        error: an errno; None stands for a process that is killed there.
        lasting: whether all later calls fail too.
        reads: whether calls that change nothing count.

    Attributes:
        calls: name and path of each call, until the first one failed.
        failed: whether one did.
    """

    def __init__(
        self,
        monkeypatch: pytest.MonkeyPatch,
        folder: Path,
        *,
        at: int | None = None,
        error: int | None = None,
        lasting: bool = False,
        reads: bool = False,
    ) -> None:
        self.folder, self.at, self.error, self.lasting = str(folder), at, error, lasting
        self.calls: list[tuple[str, str]] = []
        self.failed = False
        for name in (*CHANGES, *(READS if reads else ())):
            monkeypatch.setattr(os, name, self._wrap(name, getattr(os, name)))
        if reads:
            opening = self._wrap("open", io.open)
            monkeypatch.setattr(io, "open", opening)
            monkeypatch.setattr(builtins, "open", opening)

    def _wrap(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            path = arguments[0] if arguments else "."
            is_open_file = isinstance(path, int)
            if (is_open_file and name == "fsync") or (not is_open_file and os.fspath(path).startswith(self.folder)):
                self._count(name, "" if is_open_file else os.fspath(path))
            return function(*arguments, **options)

        return call

    def _count(self, name: str, path: str) -> None:
        if self.error is None and path.endswith(".lock"):  # a killed process drops its lock, and this one lives on
            return
        if self.failed:
            if self.lasting:
                self._fail(path)
            return
        self.calls.append((name, path))
        if self.at is not None and len(self.calls) == self.at + 1:
            self.failed = True
            self._fail(path)

    def _fail(self, path: str) -> None:
        if self.error is None:
            raise Crash
        raise OSError(self.error, os.strerror(self.error), path or None)
