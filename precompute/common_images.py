"""The images that several caches have in common, and their rows, read in the order of the first cache.

Images are matched by path. All of them are compared, by hashes of what caches of one dataset have in common, before a
row is read.
"""

import logging
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipcap.data.cache.encoded import Encoded, entries_of, put_together, take
from clipcap.data.cache.index import Cache, read_checked
from clipcap.data.cache.shard import ShardTables, read_shard
from clipcap.data.command.progress import plural
from clipcap.data.errors import SourceError

logger = logging.getLogger(__name__)

Numbers = NDArray[np.int64]
UNKNOWN = 0  # the sum of an image whose file is not known


@dataclass(frozen=True)
class CommonImages:
    """The n images that all caches have.

    Attributes:
        caches: the caches.
        rows: for each cache, int64 (n), the row of each image, counted over all shards. Those of the first ascend.
        left_out: path and reason of the other images of the first cache, by their rows.
    """

    caches: Sequence[Cache]
    rows: list[Numbers]
    left_out: dict[int, tuple[str, str]]

    def __len__(self) -> int:
        return len(self.rows[0])

    def shards(self, size: int) -> Iterator[ShardTables]:
        """Yield the shards of the joined cache: those of the first cache, cut where they have more than `size` rows.

        Raises:
            CacheError: a shard is damaged.
        """
        readers = [
            _Reader(one, chosen)
            for cache, chosen in zip(self.caches, self.rows, strict=True)
            for one in cache.by_encoder().values()
        ]
        begin = 0
        for shard in self.caches[0].shards:
            tables, end = read_shard(shard.path, embeddings=False), begin + shard.images
            failed = list(zip(tables.failure_path, tables.failure_reason, strict=True))
            for start in range(begin, max(end, begin + 1), size):
                stop = min(start + size, end)
                failed += [self.left_out[row] for row in range(start, stop) if row in self.left_out]
                first, last = np.searchsorted(self.rows[0], [start, stop])
                if last > first or failed:
                    encoded, *further = (reader.read(first, last) for reader in readers)
                    yield replace(
                        _select(tables, self.rows[0][first:last] - begin),
                        **vars(encoded),
                        further=tuple(further),
                        failure_path=[path for path, _ in failed],
                        failure_reason=[reason for _, reason in failed],
                    )
                failed = []
            begin = end


def find_common(caches: Sequence[Cache]) -> CommonImages:
    """Find the images that all caches have, and check that they are the same. One line says how many are left out.

    Args:
        caches: two or more, with the same tokenizer.

    Raises:
        SourceError: they are not, or fewer than half of the images are in all caches, or a path is twice in one.
        CacheError: a shard is damaged.
    """
    first, *others = listings = [_Listing.read(cache) for cache in caches]
    kept = [path for path in first.row if all(path in other.row for other in others)]
    most = max(len(listing.row) for listing in listings)
    if 2 * len(kept) < most:
        fact = f"only {len(kept):,} of {plural(most, 'image')} are in all of {_names(caches)}"
        raise SourceError(f"{fact}, which is less than half; join caches of the same dataset")
    rows = [np.array([listing.row[path] for path in kept], dtype=np.int64) for listing in listings]
    for cache, other, chosen in zip(caches[1:], others, rows[1:], strict=True):
        for name, hashes in other.columns.items():
            ours, theirs = first.columns[name][rows[0]], hashes[chosen]
            differ = ours != theirs
            if name == "content":
                differ &= (ours != UNKNOWN) & (theirs != UNKNOWN)
            if differ.any():
                image = kept[int(differ.argmax())]
                raise SourceError(
                    f"{image} differs in {name} between {caches[0].path} and {cache.path}; bring both up to "
                    "date with the commands that made them, and join them again"
                )
    gone = set().union(*(listing.row for listing in listings)).difference(kept)
    if gone:
        logger.warning(
            f"{plural(len(gone), 'image')} left out that not all of {_names(caches)} have (such as {min(gone)})"
        )
    reasons = dict.fromkeys(gone & first.row.keys(), "")
    for cache, other in zip(caches[1:], others, strict=True):
        for path in reasons:
            if path not in other.row:
                reasons[path] = f"not in {cache.path.name}: {other.failures.get(path, 'not in its dataset')}"
    return CommonImages(caches, rows, {first.row[path]: (path, reason) for path, reason in reasons.items()})


@dataclass(frozen=True)
class _Listing:
    """What a cache has, without embeddings.

    Attributes:
        row: by path, the row of each image, counted over all shards.
        columns: int64 (n) by name, hashes that two caches of one dataset have in common.
        failures: by path, why an image could not be read.
    """

    row: dict[str, int]
    columns: dict[str, Numbers]
    failures: dict[str, str]

    @classmethod
    def read(cls, cache: Cache) -> "_Listing":
        row: dict[str, int] = {}
        hashes = {name: array("q") for name in ("split", "captions", "tokens", "content")}
        failures: dict[str, str] = {}
        for tables in cache.tables(embeddings=False):
            for i, path in enumerate(tables.path):
                if path in row:
                    raise SourceError(f"{cache.path} has {path} twice, and images are matched by path; it cannot join")
                row[path] = len(row)
                first, last = tables.first_caption[i], tables.first_caption[i + 1]
                tokens = tables.token[tables.first_token[first] : tables.first_token[last]]
                hashes["split"].append(int(tables.split[i]))
                hashes["captions"].append(hash(tuple(tables.text[first:last])))
                hashes["tokens"].append(hash(tokens.tobytes()))
                hashes["content"].append(UNKNOWN if tables.sum is None else hash(tables.sum[i].tobytes()))
            failures.update(zip(tables.failure_path, tables.failure_reason, strict=True))
        return cls(row, {name: np.array(values, dtype=np.int64) for name, values in hashes.items()}, failures)


def _names(caches: Sequence[Cache]) -> str:
    return " and ".join(str(cache.path) for cache in caches)


class _Reader:
    """Reads embeddings of images by one encoder, with one shard in memory.

    Args:
        cache: with the embeddings of the encoder.
        rows: int64 (n), the row of each image.
    """

    def __init__(self, cache: Cache, rows: Numbers) -> None:
        self._cache, self._rows, self._shape = cache, rows, cache.embedding_shape
        self._first = np.cumsum([0, *(shard.images for shard in cache.shards)])
        self._shard: int | None = None
        self._tables: ShardTables | None = None

    def read(self, first: int, last: int) -> Encoded:
        """Read the embeddings of images `first` to `last` - 1.

        Raises:
            CacheError: a shard is damaged.
        """
        rows = self._rows[first:last]
        shards = np.searchsorted(self._first, rows, side="right") - 1
        found = np.unique(shards).tolist()
        order = np.argsort(shards, kind="stable")
        parts = [take(self._read(shard), rows[shards == shard] - self._first[shard]) for shard in found or [0]]
        return take(put_together(parts), np.argsort(order))

    def _read(self, shard: int) -> ShardTables:
        if self._tables is None or self._shard != shard:
            self._tables, self._shard = None, shard  # the memory of the last one is free before the next is read
            self._tables = read_checked(self._cache.shards[shard])
        return self._tables


def _select(tables: ShardTables, rows: Numbers) -> ShardTables:
    """Return the tables of some images, but for their embeddings."""
    captions, first_caption = entries_of(tables.first_caption, rows)
    tokens, first_token = entries_of(tables.first_token, captions)
    columns = {name: getattr(tables, name) for name in ("sum", "file_size", "file_time")}
    files: dict[str, Any] = {name: column[rows] for name, column in columns.items() if column is not None}
    return replace(
        tables,
        id=[tables.id[row] for row in rows],
        path=[tables.path[row] for row in rows],
        split=tables.split[rows],
        first_caption=first_caption,
        text=[tables.text[caption] for caption in captions],
        first_token=first_token,
        token=tables.token[tokens],
        **files,
    )
