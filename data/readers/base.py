"""What every dataset reader has."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from clipcap.data.records import Source


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Names of columns that a person gave, where they are not to be guessed.

    Attributes:
        picture: `--picture-column`.
        caption: `--caption-column`.
    """

    picture: str | None = None
    caption: str | None = None


class Reader(ABC):
    """A dataset format.

    Attributes:
        wants: what a source of this format looks like, for the error when none fits.
        has_columns: whether it makes use of `Columns`.
    """

    wants: ClassVar[str]
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
