"""Images inside tar files, which are read at their positions: nothing is unpacked."""

import hashlib
import tarfile
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from clipcap.data.errors import ImageError
from clipcap.data.files import BoundedFile
from clipcap.data.image_store import FileStamp, ImageStore, file_stamp

_BLOCK = 512  # bytes


class TarImage(NamedTuple):
    """Where an image lies.

    Attributes:
        path: as in `Record.path`.
        tar: number of its tar.
        offset: of its first byte in the tar.
        size: in bytes.
    """

    path: str
    tar: int
    offset: int
    size: int


@dataclass(frozen=True)
class TarStore(ImageStore):
    """Images inside tar files.

    A dataset may have millions of images, so an image costs 32 bytes here: its path is kept as a hash of 64 bits.

        hashes   h0        h1        h2            sorted
        places   tar       tar       tar           numbers of `tars`
                 offset    offset    offset        bytes
                 size      size      size

    Attributes:
        tars: the names of the tars, relative to `root`.
        hashes: of the paths of the images, sorted.
        places: three numbers for each hash.
    """

    tars: tuple[str, ...]
    hashes: "array[int]"
    places: "array[int]"

    @classmethod
    def of(cls, root: Path, tars: Iterable[str], images: Iterable[TarImage]) -> "TarStore":
        """Return the store of these images."""
        import numpy as np

        hashes, places = array("Q"), array("Q")
        for image in images:
            hashes.append(_hash(image.path))
            places.extend((image.tar, image.offset, image.size))
        order = np.argsort(np.asarray(hashes), kind="stable")
        sorted_hashes, sorted_places = np.asarray(hashes)[order], np.asarray(places).reshape(-1, 3)[order]
        return cls(root, tuple(tars), array("Q", sorted_hashes.tobytes()), array("Q", sorted_places.tobytes()))

    def read(self, path: str) -> bytes:
        tar, offset, size = self._place(path)
        return self.files.read_part(self.root / self.tars[tar], offset, size)

    def stamp(self, path: str) -> FileStamp:
        return file_stamp(self.root / self.tars[self._place(path)[0]])

    def _place(self, path: str) -> "array[int]":
        """Return tar, offset and size of an image."""
        wanted = _hash(path)
        row = bisect_left(self.hashes, wanted)
        if row == len(self.hashes) or self.hashes[row] != wanted:
            raise ImageError("there is no such image in the tars")
        return self.places[3 * row : 3 * row + 3]


def tar_members(file: BinaryIO) -> Iterator[tarfile.TarInfo]:
    """Yield the members of a tar in order, from their headers alone. The content of files is skipped.

    Raises:
        tarfile.TarError, OSError, ValueError: the tar is damaged or cut off after the members that were yielded.
    """
    file.seek(0)
    bounded: Any = BoundedFile(file)
    with tarfile.open(fileobj=bounded, mode="r:") as tar:
        while (member := tar.next()) is not None:
            tar.members.clear()  # type: ignore[attr-defined]  # it would grow to all members
            # A header may give any size. tarfile goes back with a negative one, and never ends.
            if member.size < 0 or tar.offset <= member.offset:
                raise tarfile.ReadError("invalid header")
            if member.isreg() and not member.issparse() and member.size > bounded.size - member.offset_data:
                raise tarfile.ReadError("unexpected end of data")
            yield member
        position = tar.offset
    # tarfile takes a broken header for the end of the archive. Blocks of zeros end it.
    file.seek(position)
    block = file.read(_BLOCK)
    if block.strip(b"\0"):
        raise tarfile.ReadError("invalid header")
    if len(block) < _BLOCK:
        raise tarfile.ReadError("unexpected end of data")


def _hash(path: str) -> int:
    digest = hashlib.blake2b(path.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big")
