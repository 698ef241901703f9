"""The order in which an epoch visits the captions: decided by the seed and the number of the epoch alone.

With `sampling` "image", images are shuffled, and each is visited with all of its captions, so that they share one
prefix. A batch has B captions, so an image may have to be cut. Six captions of three images in random order, with B =
4:

    shuffled images    C: c0 c1 c2    A: a0 a1    B: b0
    batch 0            c0 c1 c2 | a0                     A does not fit whole: it is cut
    batch 1            b0 | a1                           whole images first, then the rest of A

If a1 began batch 1, every later image would move by one, and nearly all of them would be cut, each with its prefix
computed twice.

Knows nothing of embeddings and tokens.

Letters for shapes: m captions, B captions in a batch.
"""

from bisect import bisect_right
from typing import Any

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.int64]

POOL_BLOCKS = 4  # blocks of a streamed cache that are shuffled together


def epoch_batches(
    image: Numbers, batch_size: int, *, sampling: str, seed: int, epoch: int, block_images: int | None = None
) -> list[Numbers]:
    """Put all captions of an epoch into batches.

    Args:
        image: int64 (m), the image of each caption, ascending.
        batch_size: B. The last batch may have fewer captions.
        sampling: `image` shuffles images, and visits all captions of an image together; `caption` shuffles captions.
        seed, epoch: decide the order.
        block_images: images in a block of a streamed cache, of which only a few are in memory at a time. Blocks then
            come in random order, a few at a time, and only these are shuffled together.

    Returns:
        For each batch, the indices of its captions: int64 (B).
    """
    random = np.random.default_rng([seed, epoch])
    unit = image if sampling == "image" else np.arange(len(image))  # what is shuffled as a whole
    if block_images is None:
        order = _fit_to_batches(_shuffled(unit, random), unit, batch_size)
    else:
        order = _by_pools(image, unit, batch_size, block_images, random)
    return [order[start : start + batch_size] for start in range(0, len(image), batch_size)]


def _shuffled(unit: Numbers, random: np.random.Generator) -> Any:
    """Indices that put units (ascending) into random order, with the captions of a unit together."""
    units, number = np.unique(unit, return_inverse=True)
    rank = random.permutation(len(units))  # of each unit in the new order
    return np.argsort(rank[number], kind="stable")


def _fit_to_batches(order: Numbers, unit: Numbers, batch_size: int, filled: int = 0) -> Any:
    """Reorder captions so that few units are cut where a batch ends.

    A batch takes units as they come while they fit whole, then the rest of the unit that was cut before, and only then
    a piece of the next unit. A rest that fills a whole batch goes first.

    Args:
        order: int64, indices of captions, those of a unit together.
        unit: int64 (m), the unit of each caption.
        batch_size: B.
        filled: the number of captions that the first batch has already.

    Returns:
        The same indices in another order.
    """
    ends = [0, *(np.flatnonzero(np.diff(unit[order])) + 1).tolist(), len(order)]
    pieces, rest, start, room = [], order[:0], 0, batch_size - filled
    while start < len(order):
        following = bisect_right(ends, start + room)
        whole = start if len(rest) >= room else ends[following - 1]
        room -= whole - start
        pieces += [order[start:whole], rest[:room]]
        room, rest = max(room - len(rest), 0), rest[room:]
        start = whole
        if room and following < len(ends):
            pieces.append(order[whole : whole + room])
            start = ends[following]
            rest = order[whole + room : start]
        room = batch_size
    return np.concatenate([*pieces, rest])


def _by_pools(image: Numbers, unit: Numbers, batch_size: int, block_images: int, random: np.random.Generator) -> Any:
    """Shuffle units within pools of a few blocks, one pool after the other, and fit them into batches."""
    block = image // block_images
    rank = random.permutation(int(block.max()) + 1)  # of each block in this epoch
    pool = rank[block] // POOL_BLOCKS
    pools: list[Numbers] = []
    filled = 0
    for number in range(int(pool.max()) + 1):
        members = np.flatnonzero(pool == number)
        pools.append(_fit_to_batches(members[_shuffled(unit[members], random)], unit, batch_size, filled))
        filled = (filled + len(members)) % batch_size
    return np.concatenate(pools)
