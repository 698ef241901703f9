"""Bootstrap intervals: how far a figure, or the difference of two, depends on which images happened to be in the set.

Each draw takes N of the N images with replacement, and computes the figure of those. The interval holds the middle 95 %
of the draws. Two captioners are compared on the same draws (Koehn 2004, "Statistical Significance Tests for Machine
Translation Evaluation"). What depends on the whole set stays as it is, such as the document frequencies of CIDEr-D.
"""

from typing import TYPE_CHECKING

from clipcap.data.metrics.base import Score

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

DRAWS = 1000
LOW, HIGH = 2.5, 97.5  # percentiles


def interval(score: Score, draws: int = DRAWS, seed: int = 0) -> tuple[float, float]:
    """Compute the 95 % interval of the corpus figure of N images. The same seed draws the same images."""
    return _middle(_figures(score, draws, seed))


def difference_interval(first: Score, second: Score, draws: int = DRAWS, seed: int = 0) -> tuple[float, float]:
    """Compute the 95 % interval of the difference, first minus second, of two captioners' corpus figures.

    Args:
        first, second: the same metric of two captioners, on the same N images in the same order.
        draws: number of samples.
        seed: of the samples.
    """
    assert len(first.statistics) == len(second.statistics), "two captioners are compared on the same images"
    return _middle(_figures(first, draws, seed) - _figures(second, draws, seed))


def _figures(score: Score, draws: int, seed: int) -> "NDArray[np.float64]":
    """Compute the figure of each draw, float64 (draws,)."""
    import numpy as np

    random, images = np.random.default_rng(seed), len(score.statistics)
    taken = (np.bincount(random.integers(images, size=images), minlength=images) for _ in range(draws))
    return np.asarray(score.figure(np.array([times @ score.statistics for times in taken])))


def _middle(figures: "NDArray[np.float64]") -> tuple[float, float]:
    import numpy as np

    low, high = np.percentile(figures, [LOW, HIGH])
    return float(low), float(high)
