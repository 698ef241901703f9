"""In what order an epoch goes through the captions: decided by the seed and the number of the epoch alone.

m captions, n pictures, B captions in a batch.
"""

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
        batch_size: B; the last batch may have fewer. Where a picture's captions do not fit into what is left of one
            batch, the rest of them begin the next.
        sampling: `image`: pictures in random order, each with all its captions. `caption`: captions in random order,
            each for itself.
        seed, epoch: of the order.
        block_images: pictures in a block, where only a few blocks are in memory at a time. Then blocks come in random
            order, some at a time, and only these are mixed.

    Returns:
        The captions' numbers (B) each.
    """
    random = np.random.default_rng([seed, epoch])
    unit = image if sampling == "image" else np.arange(len(image))  # what is moved as a whole
    order = _shuffled(unit, random) if block_images is None else _by_pools(image, unit, block_images, random)
    return [order[start : start + batch_size] for start in range(0, len(image), batch_size)]


def _shuffled(unit: Numbers, random: np.random.Generator) -> Any:
    """Indices that put units (ascending) into random order and leave each together."""
    place = random.permutation(len(np.unique(unit)))
    return np.argsort(place[np.unique(unit, return_inverse=True)[1]], kind="stable")


def _by_pools(image: Numbers, unit: Numbers, block_images: int, random: np.random.Generator) -> Any:
    block = image // block_images
    place = random.permutation(int(block.max()) + 1)  # of each block in this epoch
    pool = place[block] // POOL_BLOCKS
    parts = []
    for number in range(int(pool.max()) + 1):
        members = np.flatnonzero(pool == number)
        parts.append(members[_shuffled(unit[members], random)])
    return np.concatenate(parts)
