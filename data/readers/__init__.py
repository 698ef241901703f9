"""Finding out what a dataset is. One file a format; a new one is its file and its line in `READERS`."""

from pathlib import Path
from typing import Protocol

from clipcap.data.errors import SourceError, UsageError
from clipcap.data.readers.coco import CocoReader
from clipcap.data.records import Source


class Reader(Protocol):
    """A dataset format.

    Attributes:
        wants: what a source of this format looks like, for the error when none fits.
    """

    wants: str

    def matches(self, path: Path) -> bool:
        """Whether `path` looks like this format: quick, from names alone, never raising."""

    def read(self, path: Path) -> Source:
        """Read every record.

        Raises:
            SourceError: the files are not what their names promise.
        """


READERS: dict[str, Reader] = {
    "coco": CocoReader(),
}


def read_source(path: Path, format_name: str | None = None) -> Source:
    """Read the dataset at `path` with the reader of that name, or with the first that recognises it.

    Raises:
        SourceError: there is nothing at the path, no reader knows it, or the one that does finds it broken.
        UsageError: no reader has that name.
    """
    if format_name is not None and format_name not in READERS:
        raise UsageError(f"--format {format_name} is not known; use {', '.join(READERS)}")
    if not path.exists():
        raise SourceError(f"{path} does not exist; give the folder that holds the dataset")
    for name, reader in READERS.items():
        if format_name == name or (format_name is None and reader.matches(path)):
            return reader.read(path)
    looked_for = "; ".join(f"{name}: {reader.wants}" for name, reader in READERS.items())
    raise SourceError(f"{path} is not a dataset that is known here; looked for {looked_for}; found {_contents(path)}")


def _contents(path: Path) -> str:
    if path.is_file():
        return f"a file of {path.stat().st_size:,} bytes"
    names = sorted(child.name + ("/" if child.is_dir() else "") for child in path.iterdir())
    shown = ", ".join(names[:8]) or "an empty folder"
    return shown + (f" and {len(names) - 8:,} more" if len(names) > 8 else "")
