"""Writes captions to stdout, or to a file that takes its name when it is complete and that a later run can continue.

    captions.jsonl            the result: exists when all captions are in it
    captions.jsonl.partial    the captions so far
    .captions.jsonl.journal   JSON lines: the parameters of the run, then one line for each result in the partial file
    .captions.jsonl.lock      held by the process that writes them

A line of the journal says which result it is, at which byte it ends and what the CRC-32 of the file is up to there. A
process may be killed at any moment: the next run keeps what the journal proves, and cuts the rest off.
"""

import contextlib
import io
import json
import logging
import os
import stat
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO, TextIO

from clipcap.caption.inputs import Inputs
from clipcap.caption.outputs import FORMATS
from clipcap.data.cache.atomic import sync_folder
from clipcap.data.errors import ClipCapError, UsageError
from clipcap.data.lock import hold_lock

logger = logging.getLogger(__name__)

VERSION = 1
_KIND = "clipcap-caption"
_SHOWN = (str, int, float, bool, type(None))


@dataclass(frozen=True, kw_only=True)
class Result:
    """A line of the journal: a result that is in the partial file.

    Attributes:
        model: number of the model, from 0.
        input: number of the input, from 0.
        end: bytes of the partial file up to the end of this result.
        crc32: of those bytes.
    """

    model: int
    input: int
    end: int
    crc32: int


class Output:
    """A text stream for results.

    Args:
        stream: where the results are written.

    Attributes:
        resumed: whether results of an earlier run are in the output already.
        model, start: number of the model and of its input to continue with, both from 0.
    """

    resumed: bool = False
    model: int = 0
    start: int = 0

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def done(self, model: int, number: int) -> None:
        """Take note that the result of input `number` by a model is written."""
        self.stream.flush()


@contextlib.contextmanager
def open_output(path: Path | None, run: Mapping[str, Any], inputs: Inputs) -> Iterator[Output]:
    """Open stdout, a device or a file for results. A file takes its name at the end, if no exception passed.

    Args:
        path: the file; None for stdout.
        run: the parameters that decide the results, as JSON stores them.
        inputs: of the run; none of them may be the output, and their names identify a text file as captions.

    Raises:
        UsageError: the file is an input, it exists and does not hold captions of this program, an interrupted run with
            other parameters left its results, or another process writes to the file.
        ClipCapError: the file cannot be written.
    """
    if path is None:
        yield Output(sys.stdout)
        return
    if inputs.contains(path):
        raise UsageError(f"`output` {path} is an input; give another name")
    try:
        if path.exists() and not path.is_file():  # a device or a pipe
            with path.open("w", encoding="utf-8", newline="") as stream:
                yield Output(stream)
            return
        target = path.resolve()
        if not target.parent.is_dir():
            raise ClipCapError(f"the folder of {path} does not exist; create it, or give another `output`")
        with hold_lock(target.with_name(f".{target.name}.lock"), str(path)):
            check_replaceable(path, inputs.names)
            file = _CaptionsFile(target, json.loads(json.dumps(run)))
            with file.closed_at_the_end():
                yield file
                check_replaceable(path, inputs.names)  # it may have appeared in the meantime
                file.finish()
    except (IsADirectoryError, PermissionError) as error:
        raise ClipCapError(f"{path} cannot be written ({error.strerror}); give another `output`") from error


def check_replaceable(path: Path, names: Callable[[], Iterable[str]]) -> None:
    """Check that a file may be replaced by captions: it does not exist, is empty, or holds captions of this program.

    Args:
        path: the file.
        names: returns the names of the inputs.

    Raises:
        UsageError: it holds something else.
    """
    if not path.is_file() or path.stat().st_size == 0:
        return
    for form in FORMATS.values():
        with contextlib.suppress(UnicodeDecodeError), path.open(encoding="utf-8", newline="") as lines:
            if form.recognises(lines, names):
                return
    raise UsageError(
        f"{path} exists and is not recognised as captions of this program; give another `output`, or move the file away"
    )


class _CaptionsFile(Output):
    """A file of captions, which is written under another name and continues what an interrupted run left.

    Args:
        path: the file; its lock is held.
        run: the parameters that decide the results.
    """

    def __init__(self, path: Path, run: dict[str, Any]) -> None:
        self._buffer = io.StringIO()
        super().__init__(self._buffer)
        self.path = path
        self.partial = path.with_name(f"{path.name}.partial")
        self.journal = path.with_name(f".{path.name}.journal")
        lines, results = self._left(run)
        self._last: Result | None = results[-1] if results else None
        if self._last is not None:
            self.resumed, self.model, self.start = True, self._last.model, self._last.input + 1
            logger.info(f"continuing the interrupted run in {self.partial}")
            self._file = _open(self.partial, size=self._last.end)
            self._journal_file = _open(self.journal, size=sum(map(len, lines[: 1 + len(results)])))
        else:
            header = {"format": _KIND, "version": VERSION, "run": run}
            self._journal_file = _open(self.journal, os.O_CREAT | os.O_EXCL)
            self._journal_file.write(json.dumps(header).encode() + b"\n")
            self._file = _open(self.partial, os.O_CREAT | os.O_EXCL)

    def done(self, model: int, number: int) -> None:
        data = self._take()
        before = self._last or Result(model=0, input=-1, end=0, crc32=0)
        self._file.write(data)
        self._last = Result(model=model, input=number, end=before.end + len(data), crc32=zlib.crc32(data, before.crc32))
        self._journal_file.write(json.dumps(asdict(self._last)).encode() + b"\n")

    def finish(self) -> None:
        """Write what is left, and give the file its name."""
        self._file.write(self._take())
        os.fsync(self._file.fileno())
        self._file.close()  # Windows renames and removes no open file
        self._journal_file.close()
        os.replace(self.partial, self.path)  # noqa: PTH105 (tests crash the program at this name)
        sync_folder(self.path.parent)
        self.journal.unlink()

    @contextlib.contextmanager
    def closed_at_the_end(self) -> Iterator[None]:
        """Close the files; after an exception the results stay in the partial file, if there are any."""
        try:
            with self._file, self._journal_file:
                yield
        except (Exception, KeyboardInterrupt):
            if self._last is not None:
                logger.info(f"the captions so far are in {self.partial}; the same command continues with the next")
            else:
                self.partial.unlink()
                self.journal.unlink()
            raise

    def _take(self) -> bytes:
        text = self._buffer.getvalue()
        self._buffer.seek(0)
        self._buffer.truncate()
        return text.encode()

    def _left(self, run: dict[str, Any]) -> tuple[list[bytes], list[Result]]:
        """What an interrupted run left: the lines of its journal, and the results that are proven.

        Files of a run that ended before its first result are removed.

        Raises:
            UsageError: the run had other parameters, its file was changed, or there are files of another kind.
        """
        lines = _read(self.journal).splitlines(keepends=True)
        content = _read(self.partial)
        if not os.path.lexists(self.journal):
            if os.path.lexists(self.partial):
                raise UsageError(f"{self.partial} is in the way and not of an interrupted run; move it, or delete it")
            return [], []
        header = _parse(lines[0]) if lines else {}
        if lines and (header.get("format") != _KIND or header.get("version") != VERSION):
            raise UsageError(f"{self.journal} is not a journal of this version of the program; move it, or delete it")
        results = _proven(lines[1:], content)
        if not results and len(lines) > 1 and content:
            raise UsageError(f"{self.partial} was changed after the run that wrote it; move it, or delete it")
        if not results:
            self.partial.unlink(missing_ok=True)
            self.journal.unlink()
            return [], []
        before: dict[str, Any] = header["run"]
        for name, value in run.items():
            old = before.get(name)
            if old != value:
                values = f" ({old}, not {value})" if isinstance(old, _SHOWN) and isinstance(value, _SHOWN) else ""
                raise UsageError(
                    f"{self.partial} holds captions of an interrupted run whose `{name}` differs{values}; give the "
                    "same to continue it, delete it to start again, or give another `output`"
                )
        return lines, results


def _proven(lines: list[bytes], content: bytes) -> list[Result]:
    """The leading results whose CRC-32 matches the partial file."""
    results: list[Result] = []
    crc32, position = 0, 0
    for line in lines:
        found = _parse(line) if line.endswith(b"\n") else {}
        try:
            result = Result(**found)
        except TypeError:
            break
        crc32 = zlib.crc32(content[position : result.end], crc32)
        position = result.end
        if len(content) < position or crc32 != result.crc32:
            break
        results.append(result)
    return results


def _parse(line: bytes) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _read(path: Path) -> bytes:
    """The content of a file; empty if there is none."""
    if not os.path.lexists(path):
        return b""
    with _open(path) as file:
        return file.read()


def _open(path: Path, more: int = 0, *, size: int | None = None) -> BinaryIO:
    """Open a regular file for reading and writing, unbuffered; a link of that name is an error.

    Args:
        path: the file.
        more: flags of `os.open`.
        size: cut the file to this number of bytes, and write after them.

    Raises:
        UsageError: there is a link, or something else that is not a file.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0) | more, 0o666)
    except (FileNotFoundError, PermissionError):
        raise
    except OSError as error:
        raise UsageError(f"{path} is in the way ({error.strerror}); move it, or delete it") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise UsageError(f"{path} is in the way, and is not a file; move it, or delete it")
    file = os.fdopen(descriptor, "r+b", buffering=0)
    if size is not None:
        file.truncate(size)
        file.seek(size)
    return file
