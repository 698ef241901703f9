"""Finds the nearest of many vectors by cosine, exactly, one block of vectors against another.

Vectors are read in blocks, so that they may lie in memory or in files. n vectors, d numbers in each.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipcap.data.command.progress import Progress

QUERIES = 4096  # vectors whose neighbours are sought at once
BLOCK = 2048  # vectors that are compared with them at once: 4,096 x 2,048 cosines take 32 MB
TIE = 1e-6  # cosines that differ by less are equal: float32 rounds them, and otherwise at the edge of a block


@dataclass(frozen=True, kw_only=True)
class Vectors:
    """n vectors of length 1, or 0.

    Attributes:
        identity: int64 (n). A vector is no neighbour of those with its number.
        read: returns vectors `first` to `last` - 1, float32 (last - first, d).
    """

    identity: NDArray[np.int64]
    read: Callable[[int, int], NDArray[np.float32]]

    def __len__(self) -> int:
        return len(self.identity)


def unit(rows: NDArray[Any]) -> NDArray[np.float32]:
    """Scale rows (n, d) to length 1, as float32. Those without a direction, zero or not finite, become 0."""
    exact = rows.astype(np.float32)
    length = np.linalg.norm(exact, axis=1, keepdims=True)
    result: NDArray[np.float32] = np.zeros_like(exact)
    np.divide(exact, length, out=result, where=np.isfinite(length) & (length > 0))
    return result


def nearest(queries: Vectors, keys: Vectors) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Find the nearest key of each query; the first of several that are equally near.

    Args:
        queries: n vectors.
        keys: those that are compared with each of them.

    Returns:
        Its index among the keys, int64 (n), or -1 if all keys have the query's identity, and its cosine, float32 (n).
    """
    index = np.full(len(queries), -1)
    cosine = np.full(len(queries), -np.inf, dtype=np.float32)
    with Progress("comparing", "images", len(queries)) as progress:
        for start in range(0, len(queries), QUERIES):
            end = min(len(queries), start + QUERIES)
            rows, identity = queries.read(start, end), queries.identity[start:end, None]
            for first in range(0, len(keys), BLOCK):
                last = min(len(keys), first + BLOCK)
                found = rows @ keys.read(first, last).T
                found[identity == keys.identity[first:last]] = -np.inf
                highest = found.max(axis=1)
                better = np.flatnonzero(highest > cosine[start:end] + TIE)
                cosine[start + better] = highest[better]
                index[start + better] = first + np.argmax(found[better] > highest[better, None] - TIE, axis=1)
            progress.advance(end - start)
    return index, cosine
