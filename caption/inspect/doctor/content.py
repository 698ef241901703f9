"""Reads a cache for its examination: one shard after the other, with one vector and a few figures for each image.

    shards --read--> CacheContent: embedding (n, d), length, hash, id, path, split, captions, tokens

Patches (t, d) become their mean, because t of them for each image do not fit into memory.
n images, m captions, k tokens, d numbers in an embedding, t patches.
"""

import hashlib
import math
import shlex
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipcap.caption.neighbours import unit
from clipcap.data.cache.fingerprint import UNKNOWN, Fingerprint
from clipcap.data.cache.index import Cache
from clipcap.data.command.progress import Progress
from clipcap.data.records import SPLITS

Pairs = list[tuple[int, int]]

BLOCK = 4096  # rows that are computed with at once


@dataclass(frozen=True, kw_only=True)
class CacheContent:
    """A cache in memory, as the checks read it. Row i is image i of all shards in order.

    Attributes:
        cache: the opened cache.
        embedding: (n, d), float16, or float32 where a shard has a scale; the mean of the patches where an embedding is
            (t, d).
        length: float32 (n), the Euclidean length of each embedding; the mean of its patches' lengths.
        finite, zero, constant: bool (n), whether all numbers of the row are finite, are 0, are the same (and not 0).
        hash: uint64 (n), of all numbers of the row.
        id, path: n strings.
        split: uint8 (n), an index into `SPLITS`.
        first_caption: int64 (n + 1), the offset of each image's captions.
        text: m strings, the captions.
        first_token: int64 (m + 1), the offset of each caption's tokens.
        token: int64 (k), the tokens; the last of each caption is end-of-text.
    """

    cache: Cache
    embedding: NDArray[np.floating[Any]]
    length: NDArray[np.float32]
    finite: NDArray[np.bool_]
    zero: NDArray[np.bool_]
    constant: NDArray[np.bool_]
    hash: NDArray[np.uint64]
    id: list[str]
    path: list[str]
    split: NDArray[np.uint8]
    first_caption: NDArray[np.int64]
    text: list[str]
    first_token: NDArray[np.int64]
    token: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.id)

    @property
    def fingerprint(self) -> Fingerprint:
        """The fingerprint of the cache."""
        return self.cache.fingerprint

    @cached_property
    def usable(self) -> NDArray[np.bool_]:
        """Whether a row says anything about its image: bool (n)."""
        return self.finite & ~self.zero & ~self.constant

    @cached_property
    def captions(self) -> NDArray[np.int64]:
        """The number of captions of each image: int64 (n)."""
        return np.diff(self.first_caption)

    @cached_property
    def image_of_caption(self) -> NDArray[np.int64]:
        """The row of the image of each caption: int64 (m)."""
        return np.repeat(np.arange(len(self)), self.captions)

    @cached_property
    def tokens(self) -> NDArray[np.int64]:
        """The number of tokens of each caption, with end-of-text: int64 (m)."""
        return np.diff(self.first_token)

    @cached_property
    def equal_rows(self) -> Pairs:
        """Pairs (a, b) of usable rows a < b with equal numbers, a being the first of all that are equal."""
        rows = np.flatnonzero(self.usable)
        order = rows[np.argsort(self.hash[rows], kind="stable")]
        same: NDArray[np.bool_] = self.hash[order[1:]] == self.hash[order[:-1]]
        starts = np.where(np.concatenate([[False], same]), 0, np.arange(len(order)))
        first = order[np.maximum.accumulate(starts)] if len(order) else order
        return sorted((int(a), int(b)) for a, b in zip(first, order, strict=True) if a != b)

    @cached_property
    def mean(self) -> NDArray[np.float32]:
        """The mean of the usable rows, each scaled to length 1: float32 (d)."""
        total = np.zeros(self.embedding.shape[1])
        for start in range(0, len(self), BLOCK):
            rows = np.flatnonzero(self.usable[start : start + BLOCK]) + start
            total += unit(self.embedding[rows]).sum(axis=0)
        mean: NDArray[np.float32] = (total / max(1, self.usable.sum())).astype(np.float32)
        return mean

    def directions(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return embeddings without what all images share: scaled to length 1, less the mean, scaled again.

        Args:
            rows: int64 (b), usable rows.

        Returns:
            float32 (b, d). The inner product of two is their cosine.
        """
        return unit(unit(self.embedding[rows]) - self.mean)

    def name(self, row: int) -> str:
        """Return a row as findings name it: `row 17 (dog.jpg)`."""
        return f"row {row} ({self.path[row]})"

    def names(self, rows: NDArray[np.int64]) -> list[str]:
        """Return the names of rows."""
        return [self.name(int(row)) for row in rows]

    def split_of(self, row: int) -> str:
        """Return the split of a row."""
        return SPLITS[self.split[row]]

    def command(self, before: str = "", **changes: str) -> str:
        """Return the command that makes this cache again, as far as the cache records it.

        Args:
            before: what to do first, such as "remove the copies".
            changes: parameters with other values than recorded.
        """
        recorded = self.fingerprint
        source = "DATASET" if recorded.checked else "EMBEDDINGS `captions` DATASET"
        given: dict[str, str] = {}
        if recorded.encoder != UNKNOWN:
            given["encoder"] = recorded.pretrained if Path(recorded.pretrained).is_dir() else recorded.encoder
            if recorded.pretrained not in (UNKNOWN, recorded.encoder, given["encoder"]):
                given["pretrained"] = recorded.pretrained
        if recorded.features != "projected":
            given["features"] = recorded.features
        if recorded.tokenizer:
            given["tokenizer"] = recorded.tokenizer
        given |= changes
        is_joined = len(self.cache.fingerprints) > 1
        given["output"] = "CACHE" if is_joined else str(self.cache.path)
        options = " ".join(f"`{name}` {shlex.quote(value)}" for name, value in given.items())
        after = f", for each CACHE that {self.cache.path} was joined from; then `join` these again" if is_joined else ""
        return f"{before + ', then: ' if before else ''}clipcap-precompute {source} {options} `overwrite`{after}"


def read_content(path: Path) -> CacheContent:
    """Read a cache for its examination.

    Args:
        path: the index, or one shard.

    Raises:
        CacheError: the cache is damaged, or is not one.
    """
    cache = Cache.open(path)
    columns: dict[str, list[Any]] = {}
    with Progress("reading", "images", cache.images) as progress:
        for tables in cache.tables():
            found = {
                **_summary(tables.values()),
                "id": tables.id,
                "path": tables.path,
                "split": tables.split,
                "captions": np.diff(tables.first_caption),
                "text": tables.text,
                "tokens": np.diff(tables.first_token),
                "token": tables.token.astype(np.int64),
            }
            for name, column in found.items():
                columns.setdefault(name, []).append(column)
            progress.advance(len(tables.id))
    joined: dict[str, Any] = {
        name: [value for part in parts for value in part] if isinstance(parts[0], list) else np.concatenate(parts)
        for name, parts in columns.items()
    }
    for offsets, counts in (("first_caption", "captions"), ("first_token", "tokens")):
        joined[offsets] = np.cumsum([0, *joined.pop(counts).tolist()], dtype=np.int64)
    return CacheContent(cache=cache, **joined)


def _summary(embedding: NDArray[np.floating[Any]]) -> dict[str, Any]:
    """Return what is kept of the embeddings of one shard, (n, d) or (n, t, d), block by block."""
    size = max(1, BLOCK * 1024 // max(1, math.prod(embedding.shape[1:])))
    parts = [_summarise(embedding[start : start + size]) for start in range(0, max(1, len(embedding)), size)]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _summarise(block: NDArray[np.floating[Any]]) -> dict[str, Any]:
    exact = block.astype(np.float32)
    axes = tuple(range(1, block.ndim))
    finite = np.isfinite(exact).all(axis=axes)
    flat = block.reshape(len(block), math.prod(block.shape[1:]))  # a shard may be empty: none of its images was read
    alike = (flat == flat[:, :1]).all(axis=1)
    zero = (flat == 0).all(axis=1)
    length = np.sqrt(np.einsum("...d,...d->...", exact, exact))
    # In float32, so that rows of shards with different scales can be compared.
    digests = [hashlib.blake2b(row.tobytes(), digest_size=8).digest() for row in exact]
    with np.errstate(all="ignore"):
        return {
            "embedding": block if block.ndim == 2 else exact.mean(axis=1).astype(block.dtype),
            "length": length if block.ndim == 2 else length.mean(axis=1),
            "finite": finite,
            "zero": zero,
            "constant": alike & ~zero & finite,
            "hash": np.frombuffer(b"".join(digests), dtype="<u8"),
        }
