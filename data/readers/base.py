"""What every dataset reader has."""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from clipcap.data.errors import SourceError
from clipcap.data.records import Source


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Names of columns that a person gave, where they are not to be guessed.

    Attributes:
        image: `--picture-column`.
        caption: `--caption-column`.
    """

    image: str | None = None
    caption: str | None = None


class Reader(ABC):
    """A dataset format.

    Attributes:
        expected_layout: what a source of this format looks like, for the error when none fits.
        has_columns: whether it makes use of `Columns`.
    """

    expected_layout: ClassVar[str]
    has_columns: ClassVar[bool] = False

    @abstractmethod
    def matches(self, path: Path) -> bool:
        """Whether `path` looks like this format: quick, from names and first lines."""

    @abstractmethod
    def read(self, path: Path, columns: Columns) -> Source:
        """Read every record.

        Raises:
            SourceError: the files are not what their names promise.
        """


class FileReader(Reader):
    """A format that is one file: given itself, or with a folder that has a single such file in it."""

    def matches(self, path: Path) -> bool:
        return self.find(path) is not None

    def find(self, path: Path) -> Path | None:
        """The file that a path means; None where there is none, or no single one."""
        found = [file for file in (self.candidates(path) if path.is_dir() else [path]) if self.recognises(file)]
        return found[0] if len(found) == 1 else None

    def candidates(self, folder: Path) -> Iterable[Path]:
        """Where in a folder the file may be."""
        return sorted(folder.iterdir())

    @abstractmethod
    def recognises(self, file: Path) -> bool:
        """Whether a path is such a file: quick, from its name and first lines."""

    def read(self, path: Path, columns: Columns) -> Source:
        file = self.find(path) or path
        if file.is_dir():
            raise SourceError(f"{path} has no single file of this format; looked for {self.expected_layout}")
        return self.read_file(file, path if path.is_dir() else file.parent, columns)

    @abstractmethod
    def read_file(self, file: Path, root: Path, columns: Columns) -> Source:
        """Read every record.

        Args:
            file: of this format, or one that a person says is.
            root: the folder that its pictures are below.
            columns: as for `read`.

        Raises:
            SourceError: the file is not what its name promises.
        """
