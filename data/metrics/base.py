"""What every metric returns: a figure of each image, and one of the whole set."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Score:
    """One figure of N captions, such as BLEU-4, as statistics of the images that add up.

    A mean over images adds up values and images, and divides at the end. BLEU adds up counts of n-grams, so that the
    figure of a set is not the mean over its images. From the statistics, the figure of any part of the set can be
    computed, and of any sample, as the bootstrap needs it.

    Attributes:
        statistics: float64 (N, k), of each image, in the order of the captions.
        figure: computes figures (...) from statistics (..., k) that were added up.
    """

    statistics: "NDArray[np.float64]"
    figure: "Callable[[NDArray[np.float64]], Any]"

    @property
    def corpus(self) -> float:
        """The figure of the whole set, as the COCO toolkit reports it."""
        return float(self.figure(self.statistics.sum(0)))

    @property
    def images(self) -> "NDArray[np.float64]":
        """The figure of each image, float64 (N,)."""
        import numpy as np

        return np.asarray(self.figure(self.statistics))


def mean_score(values: "NDArray[np.float64]") -> Score:
    """Make the score of a metric whose corpus figure is the mean of its values, float64 (N,), over the images."""
    import numpy as np

    return Score(np.stack([values, np.ones(len(values))], axis=1), _mean)


def _mean(statistics: "NDArray[np.float64]") -> Any:
    return statistics[..., 0] / statistics[..., 1]


# Scores N tokenised captions, and returns a `Score` under the name of each figure.
ScoreCaptions = Callable[["Sequence[str]"], dict[str, Score]]


class Metric(Protocol):
    """A function that prepares the tokenised references of N images, once for all captioners that are scored."""

    def __call__(self, references: "Sequence[Sequence[str]]") -> "ScoreCaptions":
        """Return a function that scores N tokenised captions, one for each image; tokens are separated by spaces."""


def check_references(references: "Sequence[Sequence[str]]") -> None:
    """Check that there is at least one image, and at least one reference of each.

    Raises:
        UsageError: there are no images, or an image has no references.
    """
    from clipcap.data.errors import UsageError

    if not references:
        raise UsageError("there are no images to score captions of; give at least one")
    empty = sum(not some for some in references)
    if empty:
        raise UsageError(f"{empty:,} images have no references; leave these images out, or give their references")


def check_pairs(captions: "Sequence[str]", references: "Sequence[Sequence[str]]") -> None:
    """Check that there is a caption for each image, and at least one reference.

    Raises:
        UsageError: there are no captions, their number is not that of the images, or an image has no references.
    """
    from clipcap.data.errors import UsageError

    if not captions or len(captions) != len(references):
        raise UsageError(
            f"there are {len(captions):,} captions for the references of {len(references):,} images; "
            "give one caption per image, and at least one image"
        )
    check_references(references)
