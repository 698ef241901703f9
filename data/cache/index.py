"""A whole cache: the index and its shards, opened, read and verified one shard at a time.

FORMAT.md is the specification.
"""

import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from clipcap.data.cache.atomic import write_file
from clipcap.data.cache.fingerprint import Fingerprint
from clipcap.data.cache.shard import AGAIN, ShardTables, mark, open_hdf5, read_shard, read_table, table
from clipcap.data.errors import CacheError, DamagedCacheError


@dataclass(frozen=True, kw_only=True)
class ShardEntry:
    """What the index says of a shard.

    Attributes:
        path: of its file.
        images, captions, tokens: rows.
        content: the sum of its tables.
    """

    path: Path
    images: int
    captions: int
    tokens: int
    content: str


@dataclass(frozen=True, kw_only=True)
class Cache:
    """A cache that was opened and found complete. Holds no open file and no rows.

    Attributes:
        path: as it was given.
        fingerprint: the recipe.
        shards: in order; row offsets are cumulative sums of their counts.
    """

    path: Path
    fingerprint: Fingerprint
    shards: list[ShardEntry]

    @classmethod
    def open(cls, path: Path) -> "Cache":
        """Open an index with all its shards, or a single shard.

        Reads attributes and shapes only: milliseconds a shard.

        Raises:
            CacheError: the index or a shard is missing, truncated, foreign, of an unknown version, exchanged for
                another, or made by another recipe.
        """
        path = Path(path)
        real = path.resolve()
        with open_hdf5(path) as file:
            fingerprint = read_fingerprint(path, file)
            if "shards" not in file:
                return cls(path=path, fingerprint=fingerprint, shards=[describe_shard(real, file)])
            shards = _read_index(path, real.parent, file)
        for entry in shards:
            if not entry.path.is_file():
                raise CacheError(
                    f"{entry.path}, a shard of {path}, is missing; put it back beside the index, or {AGAIN}"
                )
            with open_hdf5(entry.path) as file:
                found = describe_shard(entry.path, file)
                recipe = read_fingerprint(entry.path, file)
            differences = fingerprint.differences(recipe)
            if differences:
                raise CacheError(f"{entry.path} was made by another recipe than {path} ({differences[0]}); {AGAIN}")
            if found != entry:
                raise CacheError(
                    f"{entry.path} is not the shard that {path} lists (sum {found.content[:12]}, not "
                    f"{entry.content[:12]}): another file took its name; put the right one back, or {AGAIN}"
                )
        return cls(path=path, fingerprint=fingerprint, shards=shards)

    @property
    def images(self) -> int:
        """Pictures in all shards."""
        return sum(shard.images for shard in self.shards)

    @property
    def captions(self) -> int:
        """Captions in all shards."""
        return sum(shard.captions for shard in self.shards)

    @property
    def tokens(self) -> int:
        """Tokens in all shards, end-of-text included."""
        return sum(shard.tokens for shard in self.shards)

    @property
    def embedding_shape(self) -> tuple[int, ...]:
        """Of one picture's embedding: (d,), or (t, d)."""
        with open_hdf5(self.shards[0].path) as file:
            shape: tuple[int, ...] = table(file, "images/embedding").shape
        return shape[1:]

    @property
    def patches(self) -> int:
        """Patches of a picture, where the cache has an embedding for each of them; else 0."""
        shape = self.embedding_shape
        return shape[0] if len(shape) == 2 else 0

    def tables(self, *, embeddings: bool = True) -> Iterator[ShardTables]:
        """The tables of each shard in order; one shard is in memory at a time.

        Args:
            embeddings: whether they are read too; see `read_shard`.

        Raises:
            CacheError: a shard became unreadable.
        """
        for shard in self.shards:
            yield read_shard(shard.path, embeddings=embeddings)

    def verify(self) -> Iterator[ShardEntry]:
        """Compute the sum of each shard's tables again, yielding the shard when it is right.

        Raises:
            CacheError: the tables are not those that were written.
        """
        for shard, tables in zip(self.shards, self.tables(), strict=True):
            content = tables.content()
            if content != shard.content:
                raise DamagedCacheError(
                    f"{shard.path} is damaged: its tables have the sum {content[:12]}, not {shard.content[:12]} as "
                    f"when they were written; delete it and {AGAIN}"
                )
            yield shard


def write_index(path: Path, fingerprint: Fingerprint, shards: list[ShardEntry]) -> None:
    """Write the index of shards that lie beside it: the mark that a cache is complete.

    Raises:
        ClipCapError: the file cannot be written.
    """
    image = io.BytesIO()
    with h5py.File(image, "w") as file:
        mark(file, fingerprint.to_json())
        for name in ("images", "captions", "tokens"):
            file[f"shards/{name}"] = np.array([getattr(shard, name) for shard in shards], dtype="<i8")
        for name, texts in (("name", [s.path.name for s in shards]), ("content", [s.content for s in shards])):
            file.create_dataset(f"shards/{name}", data=np.array(texts, dtype=object), dtype=h5py.string_dtype())
    write_file(path, image.getvalue())


def describe_shard(path: Path, file: h5py.File) -> ShardEntry:
    """Counts and sum of an open shard, as an index would list it.

    Raises:
        CacheError: the file is not a complete shard.
    """
    content = file.attrs.get("content")
    if content is None:
        raise DamagedCacheError(f"{path} is not a complete shard (it has no content sum); {AGAIN}")
    return ShardEntry(
        path=path,
        images=table(file, "images/embedding").shape[0],
        captions=table(file, "captions/text").shape[0],
        tokens=table(file, "captions/token").shape[0],
        content=str(content),
    )


def read_fingerprint(path: Path, file: h5py.File) -> Fingerprint:
    """The recipe of an open index or shard.

    Raises:
        DamagedCacheError: it cannot be read.
    """
    try:
        return Fingerprint.from_json(str(file.attrs["fingerprint"]))
    except CacheError as error:
        raise DamagedCacheError(f"{path}: {error}; delete it and {AGAIN}") from error


def _read_index(path: Path, folder: Path, file: h5py.File) -> list[ShardEntry]:
    names, sums = read_table(file, "shards/name"), read_table(file, "shards/content")
    counts = [read_table(file, f"shards/{name}").tolist() for name in ("images", "captions", "tokens")]
    rows = list(zip(names, sums, *counts, strict=True))
    for name in names:
        if Path(name).name != name:
            raise CacheError(
                f"{path} names a shard outside its folder ({name!r}), which no index of ours does; {AGAIN}"
            )
    return [
        ShardEntry(path=folder / name, images=images, captions=captions, tokens=tokens, content=content)
        for name, content, images, captions, tokens in rows
    ]
