"""BLEU-1 to BLEU-4 as the COCO caption toolkit computes them.

With c_k the n-grams of length k that a caption shares with its references, each counted at most as often as in the
reference that has it most, g_k the number of its n-grams, l its length and r the length of the closest reference:

    BLEU-n = (p_1 ... p_n) ** (1 / n) * min(1, exp(1 - r / l)),    p_k = c_k / g_k

The corpus figure adds up c_k, g_k, l and r over all images first. Tiny constants keep the quotients finite, and are
those of the toolkit. Of two references that are equally close the shorter one counts.

Source: Papineni et al. 2002, "BLEU: a Method for Automatic Evaluation of Machine Translation"; Chen et al. 2015,
"Microsoft COCO Captions: Data Collection and Evaluation Server" (arXiv:1504.00325), whose toolkit defines the details.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from clipcap.data.metrics.base import Score, ScoreCaptions, check_pairs, check_references

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

ORDER = 4
SMALL = 1e-9
TINY = 1e-15


def bleu(references: Sequence[Sequence[str]]) -> ScoreCaptions:
    """Prepare BLEU-1 to BLEU-4 against the references of N images, between 0 and 1.

    Args:
        references: the tokenised references of each image; tokens separated by spaces.

    Returns:
        A function that gives N tokenised captions a `Score` for each of Bleu_1 to Bleu_4. It raises UsageError where
        there is not one caption for each image.

    Raises:
        UsageError: there are no images, or an image has no references.
    """
    check_references(references)
    prepared = [_References.of(some) for some in references]

    def score(captions: Sequence[str]) -> dict[str, Score]:
        import numpy as np

        check_pairs(captions, references)
        counts = np.array([_counts(caption, some) for caption, some in zip(captions, prepared, strict=True)], float)
        return {f"Bleu_{n}": Score(counts, partial(bleu_figure, n=n)) for n in range(1, ORDER + 1)}

    return score


@dataclass(frozen=True, slots=True)
class _References:
    """The references of one image: how often an n-gram is in the reference that has it most, and their lengths."""

    most: dict[tuple[str, ...], int]
    lengths: list[int]

    @classmethod
    def of(cls, references: Sequence[str]) -> "_References":
        split = [reference.split() for reference in references]
        most: dict[tuple[str, ...], int] = {}
        for words in split:
            for gram, count in _grams(words).items():
                if count > most.get(gram, 0):
                    most[gram] = count
        return cls(most, [len(words) for words in split])


def _counts(caption: str, references: _References) -> list[int]:
    """Count one image: shared n-grams of each length, all n-grams, its length, and that of the closest reference."""
    words = caption.split()
    closest = min((abs(length - len(words)), length) for length in references.lengths)[1]
    shared = [0] * ORDER
    for gram, count in _grams(words).items():
        shared[len(gram) - 1] += min(count, references.most.get(gram, 0))
    return [*shared, *(max(0, len(words) - n) for n in range(ORDER)), len(words), closest]


def _grams(words: list[str]) -> Counter[tuple[str, ...]]:
    """Count the n-grams of all lengths up to `ORDER`."""
    grams: Counter[tuple[str, ...]] = Counter()
    for n in range(1, ORDER + 1):
        grams.update(zip(*(words[start:] for start in range(n)), strict=False))
    return grams


def bleu_figure(counts: "NDArray[np.float64]", n: int) -> Any:
    """Compute BLEU-n, (...), from sums of `_counts`, (..., 10)."""
    import numpy as np

    shared, total, length, closest = counts[..., :n], counts[..., ORDER : ORDER + n], counts[..., -2], counts[..., -1]
    precision = ((shared + TINY) / (total + SMALL)).prod(-1)
    penalty = np.exp(np.minimum(0, 1 - (closest + SMALL) / (length + TINY)))
    return precision ** (1 / n) * penalty
