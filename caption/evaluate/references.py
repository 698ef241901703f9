"""Reads the references of a set of images: from a cache, any dataset that a reader knows, or `{id: [caption, ...]}`."""

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from clipcap.data.cache.index import Cache
from clipcap.data.command.progress import plural
from clipcap.data.confined import leads_outside
from clipcap.data.errors import ClipCapError, SourceError, one_line, unreadable
from clipcap.data.files import MAX_TEXT_BYTES, open_file, parse_json
from clipcap.data.image_store import FolderStore, StoredImage
from clipcap.data.readers import READERS, Columns, read_source
from clipcap.data.readers.images import read_text
from clipcap.data.records import SPLITS
from clipcap.data.remote import is_url
from clipcap.data.remote.folder import without_secrets
from clipcap.data.remote.images import RemoteImages

CACHES = {".h5", ".hdf5"}
_Look = Callable[[str], Path | StoredImage | None]  # finds an image by its path in a folder
_KINDS = "a cache, a dataset with captions, or a JSON object {id: [caption, ...]}"


@dataclass(frozen=True, slots=True)
class Reference:
    """One image with its references.

    Attributes:
        id: as the dataset has it.
        path: the file's name or path in the dataset; the id where only that is known.
        split: train, val or test, or None if it is not known.
        captions: at least one.
        image: the image, if it was found.
    """

    id: str
    path: str
    split: str | None
    captions: list[str]
    image: Path | StoredImage | None


@dataclass(frozen=True, kw_only=True)
class References:
    """The images of a dataset that have references.

    Attributes:
        path: where they were read from; a URL without its secrets.
        images: in the order of the dataset.
        without: the number of images that were left out, because they have no captions.
        notes: what was decided on reading, one sentence each.
    """

    path: str | Path
    images: list[Reference]
    without: int = 0
    notes: tuple[str, ...] = ()

    def splits(self) -> list[str]:
        """Return the splits of the images, in the order of `SPLITS`."""
        present = {image.split for image in self.images}
        return [split for split in SPLITS if split in present]


def read_references(
    path: str | Path,
    format: str | None = None,
    columns: Columns | None = None,
    folder: str | Path | None = None,
) -> References:
    """Read the references at `path`.

    Args:
        path: a cache, a dataset of any format of `READERS`, or a JSON object of captions by the ids of images; as text,
            also the URL of one of the last two.
        format: a name in `READERS`; by default the format is detected.
        columns: the columns of a table, where they should not be guessed.
        folder: that the paths of the images are relative to, where it is not the dataset's own; as text, also its URL.

    Raises:
        SourceError: the path or the URL cannot be read, is of no known format, or holds no captions.
        CacheError: a cache is damaged.
        UsageError: no reader has that name.
    """
    look = None if folder is None else _look_behind(folder) if is_url(folder) else partial(_existing, Path(folder))
    if is_url(path):
        return _read_url(path, format, columns, look)
    return _read(Path(path), format, columns, look)


def _read_url(url: str, format: str | None, columns: Columns | None, look: _Look | None) -> References:
    """Read the references behind a URL from its mirror; an image is fetched when it is needed."""
    from clipcap.data.remote.mirror import Mirror

    if PurePosixPath(urlsplit(url).path).suffix.lower() in CACHES:
        raise SourceError(f"{without_secrets(url)} is a cache, which is read from files; download it with its shards")
    mirror = Mirror(url)
    try:
        found = _read(mirror.path, format, columns, look)
    except ClipCapError as error:
        raise type(error)(mirror.named(str(error))) from error
    images = found.images
    if look is None:
        store = FolderStore(Path(), files=mirror)
        images = [
            one if one.image is None else replace(one, image=StoredImage(store, path, mirror.named(path)))
            for one, path in ((one, str(one.image)) for one in images)
        ]
    notes = (*mirror.notes, *map(mirror.named, found.notes))
    return replace(found, path=mirror.named(str(found.path)), images=images, notes=notes)


def _look_behind(url: str) -> _Look:
    """List the images of a folder behind a URL, and return what finds one by its path in the folder."""
    store = RemoteImages()
    urls, base = set(store.add(url)), without_secrets(url).rstrip("/")

    def look(name: str) -> StoredImage | None:
        image = f"{base}/{name}"
        return StoredImage(store, image, image) if image in urls else None

    return look


def _read(path: Path, format: str | None, columns: Columns | None, look: _Look | None) -> References:
    if not os.path.exists(path):  # noqa: PTH110  # no name is an error
        raise SourceError(f"{path} does not exist; give {_KINDS}")
    if path.suffix.lower() in CACHES and not path.is_dir() and format is None:
        found = _read_cache(path, look)
    else:
        content = _json_object(path) if format is None else None
        if content is not None and "images" in content:  # a file of COCO's or Karpathy's under another name
            format = "coco" if "annotations" in content else "karpathy"
        if content is not None and format is None:
            found = _read_mapping(path, content, look)
        else:
            found = _read_dataset(path, format, columns, look)
    if not found.images:
        fact = f"{path} holds no captions" + (f" of its {plural(found.without, 'image')}" if found.without else "")
        raise SourceError(f"{fact}; give {_KINDS}")
    return found


def _read_dataset(path: Path, format: str | None, columns: Columns | None, look: _Look | None) -> References:
    source = read_source(path, format, columns)
    missing = set(source.missing)
    # The paths of embeddings and of images in archives are names only.
    files = source.embedding is None and source.store is None

    def find(name: str) -> Path | StoredImage | None:
        if look is not None:
            return look(name)
        return Path(source.root) / name if files and name not in missing else None

    images = [
        Reference(record.id, record.path, record.split, captions, find(record.path))
        for record in source.records
        if (captions := _written(record.captions))
    ]
    return References(
        path=path, images=images, without=len(source.records) - len(images), notes=tuple(source.notes)
    )  # fmt: skip


def _read_cache(path: Path, look: _Look | None) -> References:
    images, without = [], 0
    for tables in Cache.open(path).tables(embeddings=False):
        first = tables.first_caption.tolist()
        for row, number in enumerate(tables.split.tolist()):
            captions = _written(tables.text[first[row] : first[row + 1]])
            if captions:
                images.append(Reference(tables.id[row], tables.path[row], SPLITS[number], captions, None))
            else:
                without += 1
    root = _find_root(path, images) if look is None else None
    if root is not None:
        look = partial(_existing, root)
    if look is not None:
        images = [Reference(i.id, i.path, i.split, i.captions, look(i.path)) for i in images]
    return References(path=path, images=images, without=without)


def _find_root(cache: Path, images: list[Reference]) -> Path | None:
    """Find the folder of a cache's images, which the cache does not record: beside the cache, or in a folder there."""
    beside = cache.resolve().parent
    try:
        folders = [beside, *sorted(child for child in beside.iterdir() if child.is_dir())]
        return next((folder for folder in folders if images and _existing(folder, images[0].path)), None)
    except OSError:
        return None


def _written(captions: Iterable[str]) -> list[str]:
    """Return the captions that are not blank."""
    return [caption for caption in captions if caption.strip()]


def _existing(folder: Path, name: str) -> Path | None:
    """Return the image file of a name, if it exists and the name does not lead outside the folder."""
    try:
        file = folder / name
        return file if not leads_outside(folder, name) and file.is_file() else None
    except OSError:  # a name that no file can have
        return None


def _json_object(path: Path) -> dict[str, Any] | None:
    """Read a file that is one JSON object of at most `MAX_TEXT_BYTES`, and not one that a reader knows by its name."""
    if path.is_dir() or path.suffix.lower() == ".jsonl":
        return None
    if any(READERS[name].matches(path) for name in ("coco", "karpathy")):
        return None
    try:
        with open_file(path) as file:
            too_large = os.fstat(file.fileno()).st_size > MAX_TEXT_BYTES
            if too_large or not file.read(64).decode("utf-8-sig", "replace").lstrip().startswith("{"):
                return None
    except OSError as error:
        raise unreadable(path, error, f"give {_KINDS}") from error
    try:
        content = parse_json(read_text(path))
    except ValueError as error:
        if path.suffix.lower() != ".json":  # such as JSON lines
            return None
        raise SourceError(f"{path} is not JSON ({one_line(error)}); give the whole file") from error
    return content if isinstance(content, dict) else None


def _read_mapping(path: Path, content: dict[str, Any], look: _Look | None) -> References:
    images, without = [], 0
    for key, value in content.items():
        captions = [value] if isinstance(value, str) else value
        if not isinstance(captions, list) or not all(isinstance(caption, str) for caption in captions):
            fact = f"{path} has {value!r:.60} under {key!r}"
            raise SourceError(f"{fact}; references are {{id: [caption, ...]}}, or a dataset of a known format")
        if _written(captions):
            image = look(key) if look is not None else None
            images.append(Reference(key, key, None, _written(captions), image))
        else:
            without += 1
    return References(path=path, images=images, without=without)
