"""The interface that every dataset reader implements."""

import os
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from clipcap.data.errors import SourceError
from clipcap.data.records import Source


@dataclass(frozen=True, kw_only=True)
class Columns:
    """The columns of a table that the user named; None for a column that the reader should guess.

    Attributes:
        image: the column with the names of the image files, or with the images.
        caption: the column with the captions.
    """

    image: str | None = None
    caption: str | None = None


class Reader(ABC):
    """Reads one dataset format.

    Attributes:
        expected_layout: what a dataset of this format looks like, for the error when no reader recognises a path.
        has_columns: whether the reader uses `Columns`.
    """

    expected_layout: ClassVar[str]
    has_columns: ClassVar[bool] = False

    @abstractmethod
    def matches(self, path: Path) -> bool:
        """Return whether `path` looks like this format, quickly: from file names and the beginnings of files."""

    @abstractmethod
    def read(self, path: Path, columns: Columns) -> Source:
        """Read every record.

        Args:
            path: a folder or file of this format, or one that the user says is of this format.
            columns: ignored unless `has_columns`.

        Raises:
            SourceError: the content is not valid.
        """


class FileReader(Reader):
    """Reads a format that consists of one file: the path is the file, or a folder that holds exactly one such file."""

    def matches(self, path: Path) -> bool:
        return self.find(path) is not None

    def find(self, path: Path) -> Path | None:
        """Return the file that `path` stands for, or None if there is no such file or more than one."""
        found = [file for file in (self.candidates(path) if path.is_dir() else [path]) if self.recognises(file)]
        return found[0] if len(found) == 1 else None

    def candidates(self, folder: Path) -> Iterable[Path]:
        """Return the paths in a folder where the file may be."""
        return (folder / name for name in sorted(os.listdir(folder)))  # noqa: PTH208  # of millions, one at a time

    @abstractmethod
    def recognises(self, file: Path) -> bool:
        """Return whether `file` looks like this format, quickly: from its name and its beginning."""

    def read(self, path: Path, columns: Columns) -> Source:
        file = self.find(path) or path
        if file.is_dir():
            raise SourceError(f"{path} does not hold exactly one file of this format; expected {self.expected_layout}")
        return self.read_file(file, path if path.is_dir() else file.parent, columns)

    @abstractmethod
    def read_file(self, file: Path, root: Path, columns: Columns) -> Source:
        """Read every record of a file.

        Args:
            file: a file of this format, or one that the user says is of this format.
            root: the folder that its images are below.
            columns: ignored unless `has_columns`.

        Raises:
            SourceError: the content is not valid.
        """
