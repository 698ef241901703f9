"""The embeddings of some images by one encoder, as a shard stores them: taken by row, and put together.

Letters for shapes: n images, v views, d numbers in an embedding, t patches.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipcap.data.cache.scale import rescaled

Numbers = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """The embeddings of n images and v views by one encoder.

    Attributes:
        embedding: float16 (n, d), or (n, t, d) for t patches: the embeddings divided by `scale`, see `values`.
        view: float16 (v, d) or (v, t, d), the embeddings of random crops of images; None if there are none.
        first_view: int64 (n + 1), the offset of each image's rows in `view`; None if there are none.
        scale: what the numbers in `embedding` and `view` are to be multiplied by: 1, or a greater power of two where
            float16 does not hold the embeddings.
    """

    embedding: NDArray[np.float16]
    view: NDArray[np.float16] | None = None
    first_view: Numbers | None = None
    scale: float = 1.0

    def values(self, rows: "slice | NDArray[Any]" = slice(None)) -> NDArray[np.floating[Any]]:
        """Return the embeddings of images: float16 (b, d) or (b, t, d) where the scale is 1, else float32.

        Args:
            rows: which of the n images; by default all.
        """
        stored = self.embedding[rows]
        return stored if self.scale == 1 else stored.astype(np.float32) * np.float32(self.scale)


def take(encoded: Encoded, rows: Numbers) -> Encoded:
    """Return the embeddings and the views of some images.

    Args:
        encoded: of n images.
        rows: int64 (b), which of them, in any order.
    """
    view, first_view = encoded.view, encoded.first_view
    if view is not None and first_view is not None:
        entries, first_view = entries_of(first_view, rows)
        view = view[entries]
    return Encoded(embedding=encoded.embedding[rows], view=view, first_view=first_view, scale=encoded.scale)


def put_together(parts: Sequence[Encoded]) -> Encoded:
    """Return the embeddings of all parts, one after the other, with the largest scale. All have views, or none has."""
    scale = max(part.scale for part in parts)
    embedding = np.concatenate([rescaled(part.embedding, part.scale, scale) for part in parts])
    if parts[0].view is None:
        return Encoded(embedding=embedding, scale=scale)
    view = np.concatenate([rescaled(part.view, part.scale, scale) for part in parts if part.view is not None])
    counts = [np.diff(part.first_view) for part in parts if part.first_view is not None]
    first_view = np.cumsum(np.concatenate([[0], *counts]), dtype=np.int64)
    return Encoded(embedding=embedding, view=view, first_view=first_view, scale=scale)


def entries_of(first: Numbers, rows: Numbers) -> tuple[Numbers, Numbers]:
    """Find the entries of some rows in a table that offsets lead into.

    Args:
        first: int64 (n + 1), the offset of each row's entries.
        rows: int64 (b), rows in any order.

    Returns:
        int64, the numbers of their entries, row after row; and int64 (b + 1), the offset of each row's in these.
    """
    counts = first[rows + 1] - first[rows]
    offsets = np.cumsum(np.concatenate([[0], counts]), dtype=np.int64)
    entries: Numbers = np.repeat(first[rows] - offsets[:-1], counts) + np.arange(offsets[-1])
    return entries, offsets
