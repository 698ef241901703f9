"""Finds nearest neighbours among the embeddings of a cache, exactly, one block of rows against another."""

import numpy as np
from numpy.typing import NDArray

from clipcap.caption.inspect.doctor.content import BLOCK, CacheContent
from clipcap.data.command.progress import Progress

QUERIES = 2048  # rows whose neighbours are sought at once: 2,048 x 4,096 cosines take 32 MB


def nearest(
    content: CacheContent, queries: NDArray[np.int64], keys: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return the nearest of `keys` for each of the queries; a row is not its own neighbour.

    Args:
        content: the cache.
        queries, keys: int64, usable rows.

    Returns:
        Its row, int64, and its distance 1 - cosine of what sets both apart from the mean image, float32.
    """
    row = np.full(len(queries), -1)
    cosine = np.full(len(queries), -np.inf, dtype=np.float32)
    with Progress("comparing", "images", len(queries)) as progress:
        for start in range(0, len(queries), QUERIES):
            own = slice(start, start + QUERIES)
            directions = content.directions(queries[own])
            for first in range(0, len(keys), BLOCK):
                block = keys[first : first + BLOCK]
                found = directions @ content.directions(block).T
                found[queries[own, None] == block] = -np.inf
                best = found.argmax(axis=1)
                value = found[np.arange(len(best)), best]
                better = value > cosine[own]
                row[own] = np.where(better, block[best], row[own])
                cosine[own] = np.where(better, value, cosine[own])
            progress.advance(len(directions))
    return row, 1 - cosine
