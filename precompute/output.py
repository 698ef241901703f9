"""The place where a cache is written: names of index and shards, and what to do with what is there already."""

import re
import tempfile
from dataclasses import dataclass
from pathlib import Path

from clipcap.data.cache.fingerprint import Fingerprint
from clipcap.data.cache.index import Cache, read_fingerprint
from clipcap.data.cache.shard import open_hdf5
from clipcap.data.errors import CacheError, ClipCapError, DamagedCacheError, UsageError
from clipcap.data.records import storable


@dataclass(frozen=True)
class Output:
    """Where a cache goes.

    Attributes:
        index: the path that `-o` named, `NAME.h5`; shards are `NAME-00000.h5`, ... beside it.
    """

    index: Path

    def __post_init__(self) -> None:
        if self.index.suffix not in (".h5", ".hdf5"):
            raise UsageError(f"-o {self.index} must end in .h5; shards are named after it")
        if self.index.is_dir():
            raise UsageError(f"-o {self.index} is a folder; give the file to write, as {self.index}/cache.h5")
        if storable(self.index.name) != self.index.name:
            raise UsageError(f"-o {self.index!r}: the name is not UTF-8, and the index could not name its shards")

    def shard(self, number: int) -> Path:
        """The file of a shard."""
        return self.index.with_name(f"{self.index.stem}-{number:05d}{self.index.suffix}")

    def shards(self) -> list[Path]:
        """Files beside the index that have the name of a shard, in order."""
        pattern = re.compile(re.escape(self.index.stem) + r"-\d{5,}" + re.escape(self.index.suffix))
        if not self.index.parent.is_dir():
            return []
        return sorted(path for path in self.index.parent.iterdir() if pattern.fullmatch(path.name))

    def check_writable(self) -> None:
        """Raise ClipCapError where the folder, or the one that it would be made in, cannot be written.

        Leaves nothing.
        """
        folder = self.index.resolve().parent
        while not folder.exists():
            folder = folder.parent
        try:
            with tempfile.TemporaryFile(dir=folder):  # rights alone do not tell: a system may be read-only
                pass
        except OSError as error:
            raise ClipCapError(
                f"{folder} cannot be written to ({error.strerror}); give another place with -o"
            ) from error

    def prepare(self) -> None:
        """Make the folder. Raises ClipCapError where it cannot be made."""
        try:
            self.index.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            fact = f"the folder {self.index.parent} cannot be made ({error.strerror})"
            raise ClipCapError(f"{fact}; give another with -o") from error

    def check(self, fingerprint: Fingerprint, overwrite: bool) -> bool:
        """Compare what is there with the recipe of this run; with `overwrite`, take it away.

        Returns:
            Whether the cache is there already, finished and of this recipe.

        Raises:
            UsageError: what is there was made by another recipe or from another source, and `overwrite` is not set.
            CacheError: a file that is not ours has the name; it is never overwritten.
        """
        present = [path for path in (self.index, *self.shards()) if path.exists()]
        recipes = {path: recipe for path in present if (recipe := self._recipe(path, overwrite)) is not None}
        if overwrite:
            for path in present:  # the index is the first: without it the cache counts as unfinished
                path.unlink()
            return False
        for path, recipe in recipes.items():
            differences = recipe.differences(fingerprint)
            if differences:
                raise UsageError(
                    f"{path} is from another run ({'; '.join(differences)}); give another -o, or --overwrite to "
                    "replace it"
                )
        try:
            cache = Cache.open(self.index)
        except CacheError:
            return False  # unfinished, or damaged: shards that are missing or broken are made again
        expected = [self.shard(number) for number in range(len(cache.shards))]
        return [entry.path.name for entry in cache.shards] == [path.name for path in expected]

    def _recipe(self, path: Path, overwrite: bool) -> Fingerprint | None:
        """The fingerprint of a file of ours; None for one that is broken beyond telling and may be replaced."""
        try:
            with open_hdf5(path) as file:
                return read_fingerprint(path, file)
        except DamagedCacheError as error:
            # A shard's name says that it is ours. Another file may be somebody's broken work: they must say so.
            if path == self.index and not overwrite:
                raise CacheError(f"{error}, or give another -o, or --overwrite") from error
            return None
        except CacheError as error:
            raise CacheError(f"{error}; it is left alone: give another name with -o") from error
