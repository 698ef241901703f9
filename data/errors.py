"""The errors that a user can cause and fix.

A command shows one as a single line without a traceback, or an `UnknownSourceError` as three, and exits with status 2.
"""

import errno
import re
from pathlib import Path

from clipcap.data.memory import exhausted_memory

LINE_BREAKS = re.compile("[\n\v\f\r\x1c-\x1e\x85\u2028\u2029]")  # those of `str.splitlines`
# Errors of the file system that are the machine's: a disk that is full, broken or read-only, a mount that went away.
MACHINE_ERRORS = {
    *(errno.EACCES, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENODEV, errno.ENOTCONN),
    *(errno.EPERM, errno.EROFS, errno.ESTALE, errno.ETIMEDOUT),
}


class ClipCapError(Exception):
    """Base class of all errors of this program. The message is one line: the fact, the value and the way out.

    Args:
        message: a line break in it, as a name may have one, becomes what Python writes for it, such as `\\n`.
    """

    def __init__(self, message: str = "") -> None:
        super().__init__(on_one_line(message))


class UsageError(ClipCapError):
    """A parameter has an invalid value, or parameters contradict each other."""


class SourceError(ClipCapError):
    """A dataset is not recognised or is inconsistent, or most of its images cannot be read."""


class UnknownSourceError(SourceError):
    """No reader recognises a dataset. The message has three lines: what was found, the nearest format, the way out.

    Args:
        message: of three lines.
    """

    def __init__(self, message: str) -> None:
        super().__init__()
        self.args = ("\n".join(map(on_one_line, message.split("\n"))),)


class CacheError(ClipCapError):
    """A cache, its index or a shard is missing, damaged, of another program, or does not belong with the rest."""


class DamagedCacheError(CacheError):
    """A file of a cache is truncated or broken. It holds nothing of use, so stage 1 may make it again."""


class ModelError(ClipCapError):
    """An encoder, a language model or a tokenizer cannot be loaded, or does not fit its architecture."""


class CheckpointError(ClipCapError):
    """A checkpoint or a training run is missing, damaged, or does not fit the data that it is used with."""


class ImageError(ClipCapError):
    """One image cannot be read. Stages skip and record it; it is fatal only where a user named that image."""


def on_one_line(text: str) -> str:
    """Return a text with its line breaks, those of `str.splitlines`, written as Python writes them."""
    return LINE_BREAKS.sub(lambda found: ascii(found[0])[1:-1], text)


def one_line(error: BaseException) -> str:
    """Return the message of an exception of any library on one line, or its type if it has no message."""
    text = " ".join(str(error).split())
    return text or type(error).__name__


def unreadable(path: Path, error: BaseException, way_out: str) -> SourceError:
    """Return the error for a file of a dataset that cannot be read, made from an exception of any library.

    Args:
        path: of the file.
        error: what was raised. If memory ran out, the file is not called damaged.
        way_out: what to do about a damaged file.
    """
    if exhausted_memory(error):
        return SourceError(f"{path} needs more memory than there is; free some, or give a smaller dataset")
    if isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EPERM):
        way_out = "check its permissions"
    reason = (isinstance(error, OSError) and error.strerror) or one_line(error)
    return SourceError(f"{path} cannot be read ({reason[:120]}); {way_out}")
