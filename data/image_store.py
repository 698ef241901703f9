"""Where the image files of a dataset are. Whatever holds them, stage 1 reads each one as bytes."""

import errno
import os
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from clipcap.data.errors import ImageError
from clipcap.data.files import open_file

MAX_BYTES = 1 << 30  # of one image file


class FileStamp(NamedTuple):
    """What tells at a glance that a file is not the one that it was.

    Attributes:
        size: in bytes.
        time: of its last change, in nanoseconds since 1970.
    """

    size: int
    time: int


class Files:
    """The content of files, by their paths. Several threads may read at once.

    A subclass has it from elsewhere: `Mirror` of `data/remote/` has the content of files that are holes.
    """

    def read(self, path: Path) -> bytes:
        """Return the content of an image file.

        Raises:
            ImageError: as `read_image_file`.
        """
        return read_image_file(path)

    def read_part(self, path: Path, offset: int, size: int) -> bytes:
        """Return the content of an image file that is a part of another file.

        Raises:
            ImageError: as `read_image_part`.
        """
        return read_image_part(path, offset, size)

    def open(self, path: Path) -> Any:
        """Return what pyarrow opens: a path, or a binary file whose position can be changed.

        Raises:
            OSError: as `open_file`.
        """
        open_file(path).close()  # pyarrow would wait for a FIFO
        return path


@dataclass(frozen=True)
class ImageStore(ABC):
    """The image files of a dataset, by the paths of its records. Several threads may read at once.

    Attributes:
        root: the folder that the files are in.
        files: the content of these files.
    """

    root: Path
    files: Files = field(default=Files(), kw_only=True, repr=False, compare=False)

    @abstractmethod
    def read(self, path: str) -> bytes:
        """Return the content of an image file.

        Args:
            path: as in `Record.path`.

        Raises:
            ImageError: it does not exist or cannot be read.
        """

    @abstractmethod
    def stamp(self, path: str) -> FileStamp:
        """Return the stamp of the file that holds an image, without reading it.

        Args:
            path: as in `Record.path`.

        Raises:
            ImageError: it does not exist.
            OSError: it cannot be found out, as where a disk does not answer.
        """


class StoredImage(NamedTuple):
    """An image that is not a file of its own.

    Attributes:
        store: has it.
        path: in the store.
        name: as it is shown.
    """

    store: ImageStore
    path: str
    name: str

    def read(self) -> bytes:
        """Return the content of the image file. `ImageStore.read` has the errors."""
        return self.store.read(self.path)

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class FolderStore(ImageStore):
    """Image files below a folder."""

    def read(self, path: str) -> bytes:
        return self.files.read(self.root / path)

    def stamp(self, path: str) -> FileStamp:
        return file_stamp(self.root / path)


def file_stamp(path: Path) -> FileStamp:
    """Return the stamp of a file. `ImageStore.stamp` has the errors."""
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ImageError("there is no such file") from error
    except OSError as error:
        if error.errno in (errno.ENAMETOOLONG, errno.ELOOP):
            raise ImageError(error.strerror or str(error)) from error
        raise
    except ValueError as error:
        raise ImageError("its name holds a NUL character") from error
    return FileStamp(status.st_size, status.st_mtime_ns)


def read_image_file(path: Path) -> bytes:
    """Return the content of a file.

    Raises:
        ImageError: it does not exist, is no regular file, cannot be read, or is larger than `MAX_BYTES`.
    """
    return _read(path, 0, None)


def read_image_part(path: Path, offset: int, size: int) -> bytes:
    """Return the content of an image file that is a part of another file.

    Args:
        path: of the file that holds it.
        offset: of its first byte.
        size: in bytes.

    Raises:
        ImageError: as `read_image_file`, or the file ends before the part does.
    """
    data = _read(path, offset, size)
    if len(data) < size:
        raise ImageError(f"{path.name} ends before it does")
    return data


def _read(path: Path, offset: int, size: int | None) -> bytes:
    """Return `size` bytes of a file from `offset` on, or fewer if it ends before; None is up to the end."""
    try:
        with open_file(path) as file:
            wanted = os.fstat(file.fileno()).st_size - offset if size is None else size
            if wanted > MAX_BYTES:
                raise ImageError(f"{wanted:,} bytes: too large for an image")
            file.seek(offset)
            return file.read(-1 if size is None else size)
    except FileNotFoundError as error:
        raise ImageError("there is no such file") from error
    except OSError as error:
        raise ImageError(error.strerror or str(error)) from error
