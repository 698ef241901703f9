"""The output of stage 1: the names of the index and the shards, and what to do with files that exist already."""

import logging
import re
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from glob import escape
from pathlib import Path

from clipcap.data.cache.fingerprint import Fingerprint
from clipcap.data.cache.hdf5 import open_hdf5
from clipcap.data.cache.index import (
    Cache,
    check_content,
    describe_shard,
    read_fingerprints,
    read_index,
    tokenizer_folder,
)
from clipcap.data.cache.shard import read_summary
from clipcap.data.command.progress import plural
from clipcap.data.errors import CacheError, ClipCapError, DamagedCacheError, ModelError, UsageError, one_line
from clipcap.data.lock import hold_lock
from clipcap.data.pretrained.tokenizer import load_tokenizer, tokenizer_sha256
from clipcap.data.records import storable
from clipcap.precompute.failures import Failure
from clipcap.precompute.part import WHOLE, Part

logger = logging.getLogger(__name__)


def check_is_local(output: str | Path) -> None:
    """Refuse a URL, of which `Path` would make a folder `s3:` in the working folder.

    Raises:
        UsageError: it is one. The message does not repeat it: it may hold secrets.
    """
    protocol = re.match(r"[A-Za-z][\w+.-]+:(?=/)", str(output))
    if protocol:
        raise UsageError(
            f"`output` is a URL ({protocol[0]}//...), and caches are written to folders; give a file in a folder, and "
            "copy the index and its shards from there"
        )


@dataclass(frozen=True)
class Output:
    """Where a cache goes.

    Attributes:
        index: the file of the index, `NAME.h5`. The shards are `NAME-00000.h5`, `NAME-00001.h5`, ... beside it.

    Raises:
        UsageError: the index cannot have this name.
    """

    index: Path

    def __post_init__(self) -> None:
        if self.index.suffix not in (".h5", ".hdf5"):
            raise UsageError(f"`output` {self.index} must end in .h5; shards are named after it")
        if self.index.is_dir():
            raise UsageError(
                f"`output` {self.index} is a folder; give the file to write, such as {self.index}/cache.h5"
            )
        if storable(self.index.name) != self.index.name:
            raise UsageError(f"`output` {self.index!r}: the name is not UTF-8; give a name that the index can store")

    def shard(self, number: int) -> Path:
        """Return the file of a shard."""
        return self.index.with_name(f"{self.index.stem}-{number:05d}{self.index.suffix}")

    def shards(self) -> list[Path]:
        """Return the files beside the index that have the name of a shard, in order."""
        return [path for _, path in self.numbered_shards()]

    def numbered_shards(self) -> list[tuple[int, Path]]:
        """Return the number and the file of each of `shards`."""
        pattern = re.compile(re.escape(self.index.stem) + r"-(\d{5,})" + re.escape(self.index.suffix))
        if not self.index.parent.is_dir():
            return []
        found = ((pattern.fullmatch(path.name), path) for path in self.index.parent.iterdir())
        return sorted((int(match[1]), path) for match, path in found if match)

    @property
    def tokenizer(self) -> Path:
        """The folder of a tokenizer that was trained for this cache."""
        return tokenizer_folder(self.index)

    def check_writable(self) -> None:
        """Check that files can be written in the folder, or in the nearest one that exists. Nothing is left there.

        Raises:
            ClipCapError: they cannot.
        """
        folder = self.index.resolve().parent
        while not folder.exists():
            folder = folder.parent
        try:
            with tempfile.TemporaryFile(dir=folder):  # permissions do not tell: a file system may be read-only
                pass
        except OSError as error:
            raise ClipCapError(f"{folder} cannot be written to ({error.strerror}); give another `output`") from error

    @contextmanager
    def lock(self, part: Part = WHOLE) -> Iterator[None]:
        """Make the folder, and hold the lock of this output, or of a part of it, while inside the context.

        Raises:
            UsageError: another process holds it, or makes a part of what is locked, or the whole.
            ClipCapError: the folder or the lock file cannot be made.
        """
        try:
            self.index.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            fact = f"the folder {self.index.parent} cannot be made ({error.strerror})"
            raise ClipCapError(f"{fact}; give another `output`") from error
        whole, name = self._lock_file, str(self.index)
        own = self.index.with_name(f".{self.index.name}.part-{part.number}-of-{part.count}.lock")
        if part == WHOLE:
            others = sorted(self.index.parent.glob(f".{escape(self.index.name)}.part-*-of-*.lock"))
            own = whole
        else:
            others, name = [whole], f"part {part} of {self.index}"
        with hold_lock(own, name):
            for other in others:
                with hold_lock(other, str(self.index)):  # refused while its process lives
                    pass
            yield

    def remove_stale_lock(self) -> None:
        """Remove the lock file of a process that was killed when all was written. A read-only folder keeps it."""
        if self._lock_file.exists():
            with suppress(ClipCapError), self.lock():
                pass

    def lock_index(self) -> AbstractContextManager[None]:
        """Hold the lock of the index, which parts take while they write it.

        Raises:
            UsageError: another part holds it.
            ClipCapError: the lock file cannot be made.
        """
        return hold_lock(self.index.with_name(f".{self.index.name}.index.lock"), f"the index {self.index}")

    def check_not_joined(self) -> None:
        """Check that what exists is no cache that was joined from those of several encoders.

        Raises:
            UsageError: it is one, and only the caches that it was joined from can change.
        """
        for path in self._existing():
            with suppress(CacheError):
                recipes = self._read_recipes(path, replace_index=True)
                if recipes is not None and len(recipes) > 1:
                    fact = f"{path} is joined from the caches of {len(recipes)} encoders"
                    way_out = "change those caches and `join` them again, give another `output`, or `overwrite`"
                    raise UsageError(f"{fact}; {way_out}")

    def check_recipe(self, *fingerprints: Fingerprint, may_grow: bool) -> None:
        """Check that the files that exist have the same recipe.

        Args:
            fingerprints: the recipe, for each encoder.
            may_grow: whether they may come from another state of the dataset.

        Raises:
            UsageError: a file was made with another recipe or from another source.
            CacheError: a file with one of the names does not belong to this program, or the index is damaged.
        """
        for path in self._existing():
            recipes = self._read_recipes(path, replace_index=False)
            if recipes is None:
                continue
            differences = [
                difference
                for old, new in zip(recipes, fingerprints, strict=False)
                for difference in (old.recipe_differences(new) if may_grow else old.differences(new))
            ]
            if len(recipes) != len(fingerprints):
                differences = [f"{plural(len(recipes), 'encoder')}, not {len(fingerprints)}"]
            if differences:
                raise UsageError(
                    f"{path} is from another run ({'; '.join(dict.fromkeys(differences))}); give another `output`, or "
                    "`overwrite` to replace it"
                )

    def finished(self) -> Cache | None:
        """Return the cache if it is whole, and lists the shards that are there and no others; else None."""
        try:
            cache = Cache.open(self.index)
        except CacheError:
            return None
        return cache if [shard.path.name for shard in cache.shards] == [path.name for path in self.shards()] else None

    def kept_tokenizer(self, name: str) -> Path | None:
        """Return the folder of the new tokenizer that made the tokens of these shards, such as one named `new:5000`."""
        try:
            found = tokenizer_sha256(load_tokenizer(str(self.tokenizer)))
        except ModelError:
            return None
        recipes = (self._read_recipes(path, replace_index=True) for path in self._existing())
        known = {(one.tokenizer, one.tokenizer_sha256) for several in recipes for one in several or ()}
        return self.tokenizer if known == {(name, found)} else None

    def clear(self) -> None:
        """Remove the index and the shards, if all of them belong to this program.

        Raises:
            CacheError: one of them does not, and nothing was removed.
        """
        existing = self._existing()
        for path in existing:
            self._read_recipes(path, replace_index=True)
        for path in existing:  # the index is the first: without it the cache counts as unfinished
            path.unlink()
        if (self.tokenizer / "tokenizer.json").is_file():
            for file in self.tokenizer.glob("*.json"):
                file.unlink()
            with suppress(OSError):  # it holds files of someone else
                self.tokenizer.rmdir()

    def remove_broken(self) -> None:
        """Remove the shards whose tables are not those that were written, and an index that is damaged.

        Raises:
            CacheError: a file with one of the names does not belong to this program.
        """
        for path in self._existing():
            try:
                with open_hdf5(path) as file:
                    entry = describe_shard(path, file) if path != self.index else None
                if entry is None:
                    read_index(path)
                else:
                    check_content(entry)
            except DamagedCacheError as error:
                path.unlink()
                logger.info(f"{path.name} is made again: {one_line(error)}")

    def failures(self) -> list[Failure]:
        """Return the failures that the shards of a finished cache record.

        Raises:
            CacheError: a shard cannot be read.
        """
        return [Failure(*failure) for shard in Cache.open(self.index).shards for failure in read_summary(shard.path)[1]]

    @property
    def _lock_file(self) -> Path:
        return self.index.with_name(f".{self.index.name}.lock")

    def _existing(self) -> list[Path]:
        return [path for path in (self.index, *self.shards()) if path.exists()]

    def _read_recipes(self, path: Path, *, replace_index: bool) -> tuple[Fingerprint, ...] | None:
        """Return the fingerprints of a file; None if the file is so damaged that it has none, and may be replaced.

        Raises:
            CacheError: the file does not belong to this program, or it is a damaged index and `replace_index` is False.
        """
        try:
            with open_hdf5(path) as file:
                return read_fingerprints(path, file)
        except DamagedCacheError as error:
            # The name of a shard says that it is ours. A file with the name of the index may be another program's.
            if path == self.index and not replace_index:
                raise CacheError(f"{error}, or give another `output`, or `overwrite`") from error
            return None
        except CacheError as error:
            raise CacheError(f"{error}; it was left alone: give another `output`") from error
