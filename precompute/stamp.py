"""What an image is known by in later runs, so that it is encoded once."""

import hashlib
from typing import NamedTuple

from clipcap.data.cache.shard import SUM_BYTES
from clipcap.data.errors import ImageError
from clipcap.data.image_store import FileStamp, ImageStore


class Stamp(NamedTuple):
    """What an image is known by in later runs.

    Attributes:
        file: of the file that holds it, from before it was read.
        sum: of its content, `SUM_BYTES` bytes.
    """

    file: FileStamp
    sum: bytes


def read_stamped(store: ImageStore, path: str) -> tuple[bytes, Stamp]:
    """Read an image file and its stamp.

    Raises:
        ImageError: it does not exist or cannot be read.
    """
    try:
        file = store.stamp(path)  # before reading: what is written in between, is noticed later
    except OSError as error:
        raise ImageError(error.strerror or str(error)) from error
    data = store.read(path)
    return data, Stamp(file, hashlib.blake2b(data, digest_size=SUM_BYTES).digest())
