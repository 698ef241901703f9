"""In what order an epoch goes through the captions: decided by the seed and the number of the epoch alone.

m captions, n pictures, B captions in a batch.
"""

from bisect import bisect_right
from typing import Any

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.int64]

POOL_BLOCKS = 4  # blocks of a streamed cache that are mixed with each other


def epoch_batches(
    image: Numbers, batch_size: int, *, sampling: str, seed: int, epoch: int, block_images: int | None = None
) -> list[Numbers]:
    """All captions once, in batches.

    Args:
        image: the picture of each caption (m), ascending.
        batch_size: B; the last batch may have fewer.
        sampling: `image`: pictures in random order, each with all its captions; where the last does not fit, the
            rest of them fill up a later batch. `caption`: captions in random order, each for itself.
        seed, epoch: of the order.
        block_images: pictures in a block, where only a few blocks are in memory at a time. Then blocks come in random
            order, some at a time, and only these are mixed.

    Returns:
        The captions' numbers (B) each.
    """
    random = np.random.default_rng([seed, epoch])
    unit = image if sampling == "image" else np.arange(len(image))  # what is moved as a whole
    if block_images is None:
        order = _fitted(_shuffled(unit, random), unit, batch_size)
    else:
        order = _by_pools(image, unit, batch_size, block_images, random)
    return [order[start : start + batch_size] for start in range(0, len(image), batch_size)]


def _shuffled(unit: Numbers, random: np.random.Generator) -> Any:
    """Indices that put units (ascending) into random order and leave each together."""
    place = random.permutation(len(np.unique(unit)))
    return np.argsort(place[np.unique(unit, return_inverse=True)[1]], kind="stable")


def _fitted(order: Numbers, unit: Numbers, batch_size: int, filled: int = 0) -> Any:
    """The same captions, so that few units are cut where a batch ends.

    A batch takes units as they come while they fit as a whole, then the rest of the one that was cut before, and only
    then a part of the next. Were that one's rest to begin the next batch, one picture of six captions would have all
    that follow it cut, and their prefixes computed twice. Only a rest that fills a whole batch goes first.

    Args:
        order: captions, those of a unit behind each other.
        unit: of each caption (m).
        batch_size: B.
        filled: captions that the first batch has already.
    """
    ends = [0, *(np.flatnonzero(np.diff(unit[order])) + 1).tolist(), len(order)]
    parts, rest, start, room = [], order[:0], 0, batch_size - filled
    while start < len(order):
        following = bisect_right(ends, start + room)
        whole = start if len(rest) >= room else ends[following - 1]
        room -= whole - start
        parts += [order[start:whole], rest[:room]]
        room, rest = max(room - len(rest), 0), rest[room:]
        start = whole
        if room and following < len(ends):
            parts.append(order[whole : whole + room])
            start = ends[following]
            rest = order[whole + room : start]
        room = batch_size
    return np.concatenate([*parts, rest])


def _by_pools(image: Numbers, unit: Numbers, batch_size: int, block_images: int, random: np.random.Generator) -> Any:
    block = image // block_images
    place = random.permutation(int(block.max()) + 1)  # of each block in this epoch
    pool = place[block] // POOL_BLOCKS
    parts: list[Numbers] = []
    filled = 0
    for number in range(int(pool.max()) + 1):
        members = np.flatnonzero(pool == number)
        parts.append(_fitted(members[_shuffled(unit[members], random)], unit, batch_size, filled))
        filled = (filled + len(members)) % batch_size
    return np.concatenate(parts)
