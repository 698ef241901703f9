"""Opens files that strangers made: regular files only, and JSON and TOML of a bounded size and depth.

Every file of an outside source comes in through here. What cannot be opened is an OSError with a `strerror` that says
why, and what is no JSON or TOML a ValueError, so a caller adds the file's name and the way out.
"""

import errno
import io
import json
import os
import stat
import tomllib
from pathlib import Path
from typing import Any, BinaryIO, TextIO

# Configs, fingerprints and tokenizers are far smaller; the largest tokenizer.json that is known has 35 MB.
MAX_TEXT_BYTES = 1 << 27
MAX_DEPTH = 64
_SMALL_READ = 1 << 12  # bytes
_KINDS = {
    stat.S_IFIFO: "a FIFO",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
    stat.S_IFDIR: "a folder",
}


def open_file(path: Path) -> BinaryIO:
    """Open a regular file for reading. A FIFO is not waited for, and a terminal does not become the process's.

    Raises:
        OSError: the file does not exist, cannot be opened, or is a folder, a FIFO, a device or a socket. `strerror`
            is always set.
    """
    try:
        return open(path, "rb", opener=_open_regular)
    except ValueError as error:
        nul = "\0" in str(path)
        fact = "its name holds a NUL character" if nul else "its name is no text that the file system takes"
        raise OSError(errno.EINVAL, fact, str(path)) from error
    except OSError as error:
        if error.errno == errno.ENXIO:
            raise OSError(errno.EINVAL, "a socket, not a file", str(path)) from error
        raise


class BoundedFile:
    """A binary file that is asked for no more bytes than it has, whatever size a header in it claims.

    Python reserves the memory that a read asks for before it reads.

    Args:
        file: a file whose position can be changed; reading begins at its position.
    """

    def __init__(self, file: Any) -> None:
        self._file = file
        position = file.tell()
        self.size = file.seek(0, os.SEEK_END)
        file.seek(position)
        self.seek, self.tell, self.readline = file.seek, file.tell, file.readline

    def read(self, size: int) -> bytes:
        """Read at most `size` bytes.

        Raises:
            OSError, ValueError: it cannot be read, or `size` is less than -1.
        """
        if size > _SMALL_READ:  # finding the position takes longer than a small read
            size = min(size, max(self.size - self._file.tell(), 0))
        data: bytes = self._file.read(size)
        return data


def open_text(path: Path, *, errors: str = "strict") -> TextIO:
    r"""Open a UTF-8 file, with or without a byte-order mark; line ends of any system become `\n`.

    Args:
        path: the file.
        errors: what to do with bytes that are not UTF-8, as for `open`.

    Raises:
        OSError: as `open_file`.
    """
    return io.TextIOWrapper(open_file(path), encoding="utf-8-sig", errors=errors)


def read_text(path: Path, *, limit: int = MAX_TEXT_BYTES) -> str:
    r"""Read a UTF-8 file, with or without a byte-order mark; line ends of any system become `\n`.

    Args:
        path: the file.
        limit: on its size in bytes.

    Raises:
        OSError: as `open_file`, or the file is larger than `limit`.
        ValueError: it is not UTF-8.
    """
    with open_file(path) as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise OSError(errno.EFBIG, f"it has more than {limit:,} bytes", str(path))
    return data.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")


def read_json(path: Path, *, limit: int = MAX_TEXT_BYTES) -> Any:
    """Read a JSON file. Errors and limits are those of `read_text` and `parse_json`."""
    return parse_json(read_text(path, limit=limit))


def read_json_object(path: Path, *, limit: int = MAX_TEXT_BYTES) -> dict[str, Any]:
    """Read a JSON file that holds an object.

    Raises:
        OSError, ValueError: as `read_json`, or it holds something else.
    """
    return as_object(read_json(path, limit=limit))


def as_object(content: Any) -> dict[str, Any]:
    """Return what JSON held if it is an object.

    Raises:
        ValueError: it is not.
    """
    if not isinstance(content, dict):
        raise ValueError(f"it holds a {type(content).__name__}, not an object")
    return content


def parse_json(text: str) -> Any:
    """Parse JSON.

    Raises:
        ValueError: it is not JSON, or nested more than `MAX_DEPTH` deep.
    """
    return _parse(json.loads, text)


def parse_toml(text: str) -> dict[str, Any]:
    """Parse TOML.

    Raises:
        ValueError: it is not TOML, or nested more than `MAX_DEPTH` deep.
    """
    content: dict[str, Any] = _parse(tomllib.loads, text)
    return content


def _parse(parse: Any, text: str) -> Any:
    try:
        content = parse(text)
    except RecursionError as error:
        raise ValueError(f"it is nested more than {MAX_DEPTH} deep") from error
    nested = [content]
    for _ in range(MAX_DEPTH + 1):
        nested = [value for value in nested if isinstance(value, dict | list)]
        if not nested:
            return content
        nested = [item for value in nested for item in (value.values() if isinstance(value, dict) else value)]
    raise ValueError(f"it is nested more than {MAX_DEPTH} deep")


def _open_regular(path: str, flags: int) -> int:
    descriptor = os.open(path, flags | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0))
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        kind = _KINDS.get(stat.S_IFMT(mode), "something else")
        raise OSError(errno.EINVAL, f"{kind}, not a file", path)
    return descriptor
