"""Dataset readers, one file per format, and the registry that finds the right one.

A format is one file of this folder with one `Reader` in it. To add a format:

1. Write `data/readers/NAME.py` with a subclass of `Reader`, or of `FileReader` if the format is a single file. It says
   what a dataset looks like (`expected_layout`), recognises one (`matches` or `recognises`), and reads it into a
   `Source` (`read` or `read_file`).
2. Add an instance to `READERS` below, before any format that would also accept the same files.
3. Add a small dataset of the format to `tests/data/readers/test_readers.py`.

The images of a dataset are files below a folder, unless its source has a `store` (`data/stores/`). Readers know nothing
of URLs: a dataset behind one has a folder that stands for it (`data/remote/`).

`karpathy.py` is a short example. The other files hold what readers share: `finder.py` finds image files, `images.py`
builds the records of images, `rows.py` builds those of embeddings, and `csv_rows.py` reads CSV.
"""

import os
from dataclasses import replace
from pathlib import Path

from clipcap.data.errors import ClipCapError, SourceError, UsageError, unreadable
from clipcap.data.files import open_file
from clipcap.data.image_store import FolderStore
from clipcap.data.readers.arrays import ArraysReader, ClipRetrievalReader
from clipcap.data.readers.base import Columns, Reader
from clipcap.data.readers.coco import CocoReader
from clipcap.data.readers.flat import FlatReader
from clipcap.data.readers.flickr8k import Flickr8kReader
from clipcap.data.readers.flickr30k import Flickr30kReader
from clipcap.data.readers.folders import FolderReader, SidecarReader
from clipcap.data.readers.karpathy import KarpathyReader
from clipcap.data.readers.parquet import ParquetReader
from clipcap.data.readers.pickles import ClipCapPickleReader, ClipXGptPickleReader
from clipcap.data.readers.tables import TableReader
from clipcap.data.readers.unknown import nearest_format, unknown_source
from clipcap.data.readers.webdataset import WebDatasetReader
from clipcap.data.records import Source
from clipcap.data.remote import is_url

# By name, in the order in which they are tried: the most specific first.
READERS: dict[str, Reader] = {
    "coco": CocoReader(),
    "karpathy": KarpathyReader(),
    "flickr8k": Flickr8kReader(),
    "flickr30k": Flickr30kReader(),
    "flat": FlatReader(),
    "parquet": ParquetReader(),
    "table": TableReader(),
    "webdataset": WebDatasetReader(),
    "sidecar": SidecarReader(),
    "folder": FolderReader(),
    "clipcap-pickle": ClipCapPickleReader(),
    "clipxgpt-pickle": ClipXGptPickleReader(),
    "clip-retrieval": ClipRetrievalReader(),
    "arrays": ArraysReader(),
}

__all__ = ["READERS", "Columns", "Reader", "read_source"]


def read_source(
    path: str | Path, format: str | None = None, columns: Columns | None = None, *, allow_outside: bool = False
) -> Source:
    """Read the dataset at `path`.

    Args:
        path: a folder, or the file that holds the captions or embeddings; or, as text, the URL of one.
        format: a name in `READERS`; by default the first reader that recognises the path reads it.
        columns: the columns of a table, where they should not be guessed.
        allow_outside: whether images outside the folder of the dataset that its annotations name are read. By default,
            they count as missing; `data/confined.py` says which these are.

    Raises:
        UnknownSourceError: no reader recognises the path.
        SourceError: the path does not exist, or its content is not valid; or the URL cannot be read.
        UsageError: no reader has that name, columns are given for a format without columns, or images outside a URL are
            allowed.
    """
    if format is not None and format not in READERS:
        raise UsageError(f"`format` must be one of {', '.join(READERS)}, not {format!r}")
    columns = columns or Columns()
    if not is_url(path):
        source = _read_local(Path(path), format, columns)
        return _with_outside(source) if allow_outside else _with_note_of_outside(source)
    if allow_outside:
        raise UsageError("`allow_outside` is for folders, and a URL has nothing outside it; leave `allow_outside` out")
    return _read_url(path, format, columns)


def _read_url(url: str, format: str | None, columns: Columns) -> Source:
    """Read a dataset behind a URL from its mirror; only its images are read later."""
    from clipcap.data.remote.mirror import Mirror

    mirror = Mirror(url)
    try:
        source = _with_note_of_outside(_read_local(mirror.path, format, columns))
    except ClipCapError as error:
        raise type(error)(mirror.named(str(error))) from error
    return replace(
        source,
        root=mirror.named(str(source.root)),
        notes=[*mirror.notes, *map(mirror.named, source.notes)],
        store=replace(source.images, files=mirror) if source.embedding is None else None,
    )


def _read_local(path: Path, format: str | None, columns: Columns) -> Source:
    """Read a dataset of a stranger: whatever else a reader raises becomes the error of a file that cannot be read."""
    try:
        return _read(path, format, columns)
    except ClipCapError:
        raise
    except Exception as error:
        raise unreadable(path, error, "fix it, or give another `format`") from error


def _read(path: Path, format: str | None, columns: Columns) -> Source:
    if not path.exists():
        raise SourceError(f"{path} does not exist; give the folder that holds the dataset")
    if path.is_dir() and path.samefile(path.absolute().anchor):
        raise SourceError(f"{path} is the root of the file system; give the folder that holds the dataset")
    if not path.is_dir():
        _check_file(path)
    for name, reader in READERS.items():
        if format == name or (format is None and reader.matches(path)):
            if columns != Columns() and not reader.has_columns:
                raise UsageError(
                    f"{path} has the format {name}, which has no columns; leave out the names of the columns"
                )
            source = reader.read(path, columns)
            return source if format or name != "folder" else _with_hint(source, path)
    raise unknown_source(path, READERS)


def _check_file(path: Path) -> None:
    try:
        open_file(path).close()
    except OSError as error:
        raise unreadable(path, error, "give a folder, or a regular file") from error


def _with_outside(source: Source) -> Source:
    """Let images be read that are outside the root; those that exist are not missing."""
    root = Path(source.root)
    existing = [path for path in source.outside if os.path.isfile(root / path)]  # noqa: PTH113  # no name is an error
    if not existing:
        return source
    found = set(existing)
    return replace(
        source,
        missing=[path for path in source.missing if path not in found],
        notes=[*source.notes, f"images outside the dataset's folder: {len(existing):,} (such as {existing[0]})"],
        store=FolderStore(root),
    )


def _with_note_of_outside(source: Source) -> Source:
    outside = source.outside
    if not outside:
        return source
    note = (
        f"image names that lead outside the dataset's folder and count as missing: {len(outside):,} (such as "
        f"{outside[0]}); stage 1 reads these images with `allow_outside`"
    )
    return replace(source, notes=[*source.notes, note])


def _with_hint(source: Source, path: Path) -> Source:
    """Note what resembles captions beside images that were read without any."""
    near = nearest_format(path, READERS)
    if near is None or near.format == source.format:
        return source
    note = f"if there are captions: the nearest format is {near.format}; {near.fact}; to have them read, {near.fix}"
    return replace(source, notes=[*source.notes, note])
