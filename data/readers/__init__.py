"""Finding out what a dataset is. One file a format; a new one is its file and its line in `READERS`."""

from pathlib import Path

from clipcap.data.errors import SourceError, UsageError
from clipcap.data.readers.arrays import ArraysReader, ClipRetrievalReader
from clipcap.data.readers.base import Columns, Reader
from clipcap.data.readers.coco import CocoReader
from clipcap.data.readers.flat import FlatReader
from clipcap.data.readers.flickr8k import Flickr8kReader
from clipcap.data.readers.flickr30k import Flickr30kReader
from clipcap.data.readers.folders import FolderReader, SidecarReader
from clipcap.data.readers.karpathy import KarpathyReader
from clipcap.data.readers.pickles import ClipCapPickleReader, ClipXGptPickleReader
from clipcap.data.readers.tables import TableReader
from clipcap.data.records import Source

# In the order in which they are tried: what is the most particular first.
READERS: dict[str, Reader] = {
    "coco": CocoReader(),
    "karpathy": KarpathyReader(),
    "flickr8k": Flickr8kReader(),
    "flickr30k": Flickr30kReader(),
    "flat": FlatReader(),
    "table": TableReader(),
    "sidecar": SidecarReader(),
    "folder": FolderReader(),
    "clipcap-pickle": ClipCapPickleReader(),
    "clipxgpt-pickle": ClipXGptPickleReader(),
    "clip-retrieval": ClipRetrievalReader(),
    "arrays": ArraysReader(),
}


def read_source(path: Path, format_name: str | None = None, columns: Columns | None = None) -> Source:
    """Read the dataset at `path` with the reader of that name, or with the first that recognises it.

    Raises:
        SourceError: there is nothing at the path, no reader knows it, or the one that does finds it broken.
        UsageError: no reader has that name, or columns were named for a format that has none.
    """
    if format_name is not None and format_name not in READERS:
        raise UsageError(f"--format {format_name} is not known; use {', '.join(READERS)}")
    if not path.exists():
        raise SourceError(f"{path} does not exist; give the folder that holds the dataset")
    columns = columns or Columns()
    for name, reader in READERS.items():
        if format_name == name or (format_name is None and reader.matches(path)):
            if columns != Columns() and not reader.has_columns:
                raise UsageError(f"{path} is of the format {name}, which has no columns to name; leave them out")
            return reader.read(path, columns)
    looked_for = "; ".join(f"{name}: {reader.expected_layout}" for name, reader in READERS.items())
    raise SourceError(f"{path} is not a dataset that is known here; looked for {looked_for}; found {_contents(path)}")


__all__ = ["READERS", "Columns", "Reader", "read_source"]


def _contents(path: Path) -> str:
    if path.is_file():
        return f"a file of {path.stat().st_size:,} bytes"
    names = sorted(child.name + ("/" if child.is_dir() else "") for child in path.iterdir())
    shown = ", ".join(names[:8]) or "an empty folder"
    return shown + (f" and {len(names) - 8:,} more" if len(names) > 8 else "")
