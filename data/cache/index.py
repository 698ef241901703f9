"""Opens a whole cache: the index with its shards, read and verified one shard at a time. FORMAT.md specifies it.

    cache.h5 (index)                             files beside it
    shards/name      images  captions  content
    cache-00000.h5     4096     20480  9f3a...   cache-00000.h5   rows of images    0 .. 4095
    cache-00001.h5     4095     20475  07c1...   cache-00001.h5   rows of images 4096 .. 8190

The index holds counts and content hashes, and no rows. It is written last, so a cache with an index is complete.
"""

import io
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import h5py
import numpy as np

from clipcap.data.cache.atomic import write_file
from clipcap.data.cache.columns import OFFSETS, has, numbers, read_attribute, read_texts, write_texts
from clipcap.data.cache.fingerprint import Fingerprint, distinct_names
from clipcap.data.cache.hdf5 import AGAIN, further_fingerprints, mark, open_hdf5
from clipcap.data.cache.shard import ShardTables, group_of, read_shard, table
from clipcap.data.errors import CacheError, DamagedCacheError, UsageError
from clipcap.data.pretrained.new_tokenizer import is_new

_LONGEST_NAME = 255  # bytes of the name of a file


@dataclass(frozen=True, kw_only=True)
class ShardEntry:
    """What the index records of a shard.

    Attributes:
        path: its file.
        images, captions, tokens: its numbers of rows.
        content: the SHA-256 of its tables.
        encoder: the number of the encoder whose embeddings are read. The index does not record it.
    """

    path: Path
    images: int
    captions: int
    tokens: int
    content: str
    encoder: int = 0


@dataclass(frozen=True, kw_only=True)
class Cache:
    """A complete cache. It keeps no open file and no rows in memory.

    Attributes:
        path: the path that was opened.
        version: the format of the file at that path; FORMAT.md tells them apart.
        fingerprint: what the embeddings that are read were made with.
        shards: its shards in order; the first row of a shard is the sum of the counts before it.
        fingerprints: of each encoder, one in most caches. That of the first is read unless another one is chosen.
    """

    path: Path
    version: int
    fingerprint: Fingerprint
    shards: list[ShardEntry]
    fingerprints: tuple[Fingerprint, ...]

    @classmethod
    def open(cls, path: Path) -> "Cache":
        """Open an index with all its shards, or a single shard.

        Only attributes and shapes are read, which takes milliseconds for each shard.

        Raises:
            CacheError: the index or a shard is missing, truncated, of another program or an unknown version, replaced
                by another shard, or has another fingerprint.
        """
        path = Path(path)
        real = path.resolve()
        with open_hdf5(path) as file:
            fingerprints, version = read_fingerprints(path, file), int(file.attrs["format_version"])
            is_shard = not has(file, "shards")
            if is_shard:
                _check_embeddings(path, fingerprints, file)
                shards = [describe_shard(real, file)]
            else:
                shards = _read_entries(path, real.parent, file)
        for entry in shards if not is_shard else ():
            _check_entry(path, fingerprints, entry)
        return cls(path=path, version=version, fingerprint=fingerprints[0], shards=shards, fingerprints=fingerprints)

    def by_encoder(self) -> "dict[str, Cache]":
        """Return this cache once for each encoder, by the encoder's name, with its embeddings and its fingerprint.

        A name is that of the fingerprint, such as `ViT-B-32`; where several encoders have it, the features or the
        weights are appended, as in `ViT-B-32:patches`.
        """
        return {
            name: replace(
                self,
                fingerprint=fingerprint,
                shards=[replace(shard, encoder=number) for shard in self.shards],
            )
            for number, (name, fingerprint) in enumerate(
                zip(distinct_names(self.fingerprints), self.fingerprints, strict=True)
            )
        }

    def with_encoder(self, name: str) -> "Cache":
        """Return this cache with the embeddings of one encoder.

        Args:
            name: as in `by_encoder`.

        Raises:
            UsageError: it has no encoder of this name.
        """
        found = self.by_encoder()
        if name not in found:
            raise UsageError(f"`encoder` {name} is not in {self.path}; it has {', '.join(found)}")
        return found[name]

    @property
    def images(self) -> int:
        """Number of images in all shards."""
        return sum(shard.images for shard in self.shards)

    @property
    def captions(self) -> int:
        """Number of captions in all shards."""
        return sum(shard.captions for shard in self.shards)

    @property
    def tokens(self) -> int:
        """Number of tokens in all shards, with the end-of-text tokens."""
        return sum(shard.tokens for shard in self.shards)

    @property
    def tokenizer(self) -> str:
        """The tokenizer that made the tokens, as `load_tokenizer` takes it. One trained for the cache is beside it."""
        recorded = self.fingerprint.tokenizer
        return str(tokenizer_folder(self.path)) if is_new(recorded) else recorded

    @property
    def encoder(self) -> int:
        """The number of the encoder whose embeddings are read."""
        return self.shards[0].encoder

    @property
    def embedding_shape(self) -> tuple[int, ...]:
        """Shape of the embedding of one image: (d,), or (t, d) for patches."""
        with open_hdf5(self.shards[0].path) as file:
            shape: tuple[int, ...] = table(file, f"{group_of(self.encoder)}/embedding").shape
        return shape[1:]

    @property
    def patches(self) -> int:
        """Number of patches t of an image if the cache has patch embeddings, else 0."""
        shape = self.embedding_shape
        return shape[0] if len(shape) == 2 else 0

    def views_of(self, split: str) -> int:
        """Number of views that each image of a split has besides its embedding. Only training images have any."""
        return self.fingerprint.views if split == "train" else 0

    def tables(self, *, embeddings: bool = True) -> Iterator[ShardTables]:
        """Yield the tables of each shard in order, with one shard in memory at a time.

        Args:
            embeddings: whether embeddings are read too, as for `read_shard`.

        Raises:
            CacheError: a shard became unreadable.
        """
        for shard in self.shards:
            yield read_shard(shard.path, embeddings=embeddings, encoder=shard.encoder)

    def verify(self) -> Iterator[ShardEntry]:
        """Hash the tables of each shard again, and yield the shard if the hash is right.

        Raises:
            DamagedCacheError: the tables are not those that were written.
            CacheError: a shard cannot be read.
        """
        for shard in self.shards:
            check_content(shard)
            yield shard


def check_content(shard: ShardEntry) -> None:
    """Hash the tables of a shard again.

    Raises:
        DamagedCacheError: the tables are not those that were written.
        CacheError: the shard cannot be read.
    """
    read_checked(shard)


def read_checked(shard: ShardEntry) -> ShardTables:
    """Read all tables of a shard, and check that they are those that its entry was made of.

    Returns:
        The tables, with the embeddings of the entry's encoder.

    Raises:
        DamagedCacheError: they are not.
        CacheError: the shard cannot be read.
    """
    tables = read_shard(shard.path)
    content = tables.content()
    if content != shard.content:
        raise DamagedCacheError(
            f"{shard.path} is damaged: its tables have the hash {content[:12]}, not {shard.content[:12]} as when they "
            f"were written; delete it and {AGAIN}"
        )
    return tables.of_encoder(shard.encoder)


def check_shards(path: Path) -> Iterator[tuple[ShardEntry, str | None]]:
    """Read all tables of a cache, and yield each shard with None, or with what is wrong with it.

    Args:
        path: the index, or a single shard.

    Raises:
        CacheError: the index cannot be read.
    """
    with open_hdf5(path) as file:
        is_shard = not has(file, "shards")
        fingerprints = read_fingerprints(path, file)
    for shard in Cache.open(path).shards if is_shard else read_index(path)[1]:
        try:
            if not is_shard:
                _check_entry(path, fingerprints, shard)
            check_content(shard)
        except CacheError as error:
            yield shard, str(error)
        else:
            yield shard, None


def tokenizer_folder(index: Path) -> Path:
    """Return where the tokenizer that was trained for a cache is: `cache-tokenizer/` beside `cache.h5`."""
    return index.with_name(f"{index.stem}-tokenizer")


def write_index(
    path: Path, fingerprint: Fingerprint, shards: list[ShardEntry], further: Sequence[Fingerprint] = ()
) -> None:
    """Write the index of shards in the same folder, which makes the cache complete.

    Args:
        path: its file.
        fingerprint: the recipe.
        shards: in order.
        further: the recipe of each further encoder of the shards.

    Raises:
        ClipCapError: the file cannot be written.
    """
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        mark(file, fingerprint.to_json(), [one.to_json() for one in further])
        for name in ("images", "captions", "tokens"):
            file[f"shards/{name}"] = np.array([getattr(shard, name) for shard in shards], dtype="<i8")
        for name, texts in (("name", [s.path.name for s in shards]), ("content", [s.content for s in shards])):
            write_texts(file, f"shards/{name}", texts)
    write_file(path, buffer.getvalue())


def read_index(path: Path) -> tuple[Fingerprint, list[ShardEntry]]:
    """Read what an index lists, without opening a shard.

    Raises:
        CacheError: it is missing, damaged, of another program or an unknown version, or is a shard.
    """
    with open_hdf5(path) as file:
        if not has(file, "shards"):
            raise CacheError(f"{path} is a shard, not the index of a cache; give the cache.h5")
        return read_fingerprint(path, file), _read_entries(path, path.resolve().parent, file)


def describe_shard(path: Path, file: h5py.File) -> ShardEntry:
    """Return the counts and the content hash of an open shard, as an index lists them.

    Raises:
        DamagedCacheError: the file is not a complete shard.
    """
    if "content" not in file.attrs:
        raise DamagedCacheError(f"{path} is not a complete shard (it has no content hash); {AGAIN}")
    return ShardEntry(
        path=path,
        images=table(file, "images/embedding").shape[0],
        captions=table(file, "captions/first_token").shape[0] - 1,
        tokens=table(file, "captions/token").shape[0],
        content=read_attribute(file, "content"),
    )


def read_fingerprint(path: Path, file: h5py.File) -> Fingerprint:
    """Read the fingerprint of an open index or shard.

    Raises:
        DamagedCacheError: the fingerprint cannot be read.
    """
    return _parsed(path, read_attribute(file, "fingerprint"))


def read_fingerprints(path: Path, file: h5py.File) -> tuple[Fingerprint, ...]:
    """Read the fingerprint of each encoder of an open index or shard.

    Raises:
        DamagedCacheError: one cannot be read.
    """
    return read_fingerprint(path, file), *(_parsed(path, text) for text in further_fingerprints(file))


def _parsed(path: Path, text: str) -> Fingerprint:
    try:
        return Fingerprint.from_json(text)
    except CacheError as error:
        raise DamagedCacheError(f"{path}: {error}; delete it and {AGAIN}") from error


def _check_entry(index: Path, fingerprints: Sequence[Fingerprint], entry: ShardEntry) -> None:
    """Check that a shard is there and is the one that the index lists. Only attributes and shapes are read.

    Raises:
        CacheError: it is not.
    """
    if not entry.path.is_file():
        raise CacheError(f"{entry.path}, a shard of {index}, is missing; put it back beside the index, or {AGAIN}")
    with open_hdf5(entry.path) as file:
        found = describe_shard(entry.path, file)
        others = read_fingerprints(entry.path, file)
        _check_embeddings(entry.path, others, file)
    if len(others) != len(fingerprints):
        raise CacheError(f"{entry.path} has {len(others)} encoders, and {index} {len(fingerprints)}; {AGAIN}")
    for fingerprint, other in zip(fingerprints, others, strict=True):
        differences = fingerprint.recipe_differences(other)
        if differences:
            raise CacheError(f"{entry.path} has another fingerprint than {index} ({differences[0]}); {AGAIN}")
    if found != entry:
        raise CacheError(
            f"{entry.path} is not the shard that {index} lists (hash {found.content[:12]}, not {entry.content[:12]}); "
            f"put the right file back, or {AGAIN}"
        )


def _check_embeddings(path: Path, fingerprints: Sequence[Fingerprint], file: h5py.File) -> None:
    """Check that the embeddings of an open shard have the width that their fingerprint states.

    Raises:
        DamagedCacheError: they have not, or an encoder has not as many as the first.
    """
    images = table(file, "images/embedding").shape[0]
    for number, fingerprint in enumerate(fingerprints):
        shape = table(file, f"{group_of(number)}/embedding").shape
        if shape[-1] != fingerprint.width or 0 in shape[1:]:
            fact = f"embeddings of {' x '.join(map(str, shape[1:]))} numbers and the width {fingerprint.width}"
            raise DamagedCacheError(f"{path} has {fact}; delete it and {AGAIN}")
        if shape[0] != images:
            fact = f"{shape[0]:,} embeddings of encoder {number}, and {images:,} images"
            raise DamagedCacheError(f"{path} has {fact}; delete it and {AGAIN}")


def _read_entries(path: Path, folder: Path, file: h5py.File) -> list[ShardEntry]:
    names, sums = read_texts(file, "shards/name"), read_texts(file, "shards/content")
    counts = [numbers(file, f"shards/{name}", (OFFSETS,))[:].tolist() for name in ("images", "captions", "tokens")]
    rows = list(zip(names, sums, *counts, strict=True))
    for name in names:
        if Path(name).name != name or "\0" in name or len(name.encode()) > _LONGEST_NAME:
            raise CacheError(f"{path} names a shard outside its folder ({name!r:.80}); {AGAIN}")
    if not names:
        raise DamagedCacheError(f"{path} lists no shards; delete it and {AGAIN}")
    name, count = Counter(names).most_common(1)[0]
    if count > 1:
        raise DamagedCacheError(f"{path} lists {name} more than once; delete it and {AGAIN}")
    return [
        ShardEntry(path=folder / name, images=images, captions=captions, tokens=tokens, content=content)
        for name, content, images, captions, tokens in rows
    ]
