"""Where the image files of a dataset are. Whatever holds them, stage 1 reads each one as bytes."""

import os
import stat
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

from clipcap.data.errors import ImageError

MAX_BYTES = 1 << 30  # of one image file


class ImageStore(ABC):
    """The image files of a dataset, by the paths of its records. It is sent to worker processes, so it is small."""

    @abstractmethod
    def read(self, path: str) -> bytes:
        """Return the content of an image file.

        Args:
            path: as in `Record.path`.

        Raises:
            ImageError: it does not exist or cannot be read.
        """


@dataclass(frozen=True)
class FolderStore(ImageStore):
    """Image files below a folder.

    Attributes:
        root: the folder.
    """

    root: Path

    def read(self, path: str) -> bytes:
        return read_image_file(self.root / path)


def read_image_file(path: Path) -> bytes:
    """Return the content of a file.

    Raises:
        ImageError: it does not exist, is no regular file, cannot be read, or is larger than `MAX_BYTES`.
    """
    try:
        with open(path, "rb", opener=_open) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise ImageError("not a regular file")
            if status.st_size > MAX_BYTES:
                raise ImageError(f"{status.st_size:,} bytes: too large for an image")
            return file.read()
    except FileNotFoundError as error:
        raise ImageError("there is no such file") from error
    except OSError as error:
        raise ImageError(error.strerror or str(error)) from error
    except ValueError as error:
        raise ImageError("its name holds a NUL character") from error


def _open(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))  # a FIFO is not waited for
