"""Images behind URLs that belong to no dataset: each is fetched when it is needed, and never written to the disk."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from clipcap.data.errors import ImageError, SourceError
from clipcap.data.image_store import MAX_BYTES, FileStamp, ImageStore
from clipcap.data.readers.finder import is_image
from clipcap.data.remote.folder import RemoteFolder, open_url, without_secrets


class _Place(NamedTuple):
    """Where an image is, and its size in bytes, if it is known."""

    folder: RemoteFolder
    name: str
    size: int | None


@dataclass(frozen=True)
class RemoteImages(ImageStore):
    """Images by their URLs. Several threads may read at once.

    Attributes:
        shown: each URL without secrets, in the order in which they were added.
    """

    root: Path = Path()
    shown: dict[str, str] = field(default_factory=dict)
    _places: dict[str, _Place] = field(default_factory=dict)

    def add(self, url: str) -> list[str]:
        """Add an image, or all images of a folder, and return their URLs.

        Raises:
            SourceError: as `open_url`, or the folder cannot be listed or holds no images.
        """
        folder, name = open_url(url)
        if name is not None:
            self._places[url] = _Place(folder, name, None)
            return self.add_unseen(url)
        try:
            entries = folder.entries()
        except OSError as error:
            raise SourceError(f"{folder.url} cannot be listed ({error}); check the URL and the connection") from None
        names = sorted(name for name in entries if is_image(name) and not f"/{name}".count("/."))
        if not names:
            raise SourceError(f"{folder.url} holds no images, or cannot be listed; check the URL")
        places = {f"{folder.url}/{name}": _Place(folder, name, entries[name].size) for name in names}
        self._places.update(places)
        self.shown.update({place: place for place in places})
        return list(places)

    def add_unseen(self, url: str) -> list[str]:
        """Add an image without a request, and return its URL. If it does not exist, reading it is the error."""
        self.shown[url] = without_secrets(url)
        return [url]

    def read(self, path: str) -> bytes:
        try:
            place = self._places.get(path) or _open_image(path)
            size = place.folder.entry(place.name).size if place.size is None else place.size
            if size is not None and size > MAX_BYTES:
                raise ImageError(f"{size:,} bytes: too large for an image")
            return place.folder.read(place.name)
        except OSError as error:
            raise ImageError(error.strerror or str(error)) from error

    def stamp(self, path: str) -> FileStamp:
        return FileStamp(-1, -1)  # not known, and no cache records it


def _open_image(url: str) -> _Place:
    try:
        folder, name = open_url(url)
    except SourceError as error:
        raise ImageError(str(error)) from None
    if name is None:
        raise ImageError("a folder, not an image")
    return _Place(folder, name, None)
