"""METEOR 1.5 for English from its statistics of matches, as the jar in the COCO caption toolkit computes it.

The jar aligns a caption with each reference, and gives 23 counts of the reference that fits best (`toolkit.py` asks for
them). They add up over images. Words match in four ways i: the same word, the same stem, synonyms, paraphrases. With
c_i and f_i the content and function words of the caption that match, out of c and f in all, and in the same way for the
reference:

    P = sum over i of w_i (d c_i + (1 - d) f_i) / (d c + (1 - d) f),    R = the same of the reference
    METEOR = P R / (a P + (1 - a) R) * (1 - g (chunks / matches) ** b)

where chunks are runs of matches that are adjacent and in the same order in both, and matches are the mean of the
numbers of matched words in caption and reference. A caption whose words all match in one run is not penalised: its
chunks count as 0.

Source: Denkowski and Lavie 2014, "Meteor Universal: Language Specific Translation Evaluation for Any Target Language",
with the parameters that the jar has for English.
"""

from typing import TYPE_CHECKING, Any

from clipcap.data.metrics.base import Score

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

ALPHA, BETA, GAMMA, DELTA = 0.85, 0.2, 0.6, 0.75
WEIGHTS = (1.0, 0.6, 0.8, 0.6)  # the same word, stem, synonym, paraphrase
# The 23 counts: words and function words of caption and reference; for each way to match, content words of caption and
# reference, then function words of both; chunks; matched words of caption and reference.
LENGTH, REFERENCE_LENGTH, FUNCTION, REFERENCE_FUNCTION = 0, 1, 2, 3
STAGES = slice(4, 20)
CHUNKS, MATCHED, REFERENCE_MATCHED = 20, 21, 22
COUNTS = 23


def meteor_score(counts: "Sequence[Sequence[float]]") -> Score:
    """Make the score of N captions from the 23 counts of each, as the jar gives them."""
    import numpy as np

    statistics = np.array(counts, np.float64).reshape(-1, COUNTS)
    whole = (
        (statistics[:, MATCHED] == statistics[:, LENGTH])
        & (statistics[:, REFERENCE_MATCHED] == statistics[:, REFERENCE_LENGTH])
        & (statistics[:, CHUNKS] == 1)
    )
    statistics[whole, CHUNKS] = 0
    return Score(statistics, _figure)


def _figure(sums: "NDArray[np.float64]") -> Any:
    """Compute METEOR, (...), from sums of counts, (..., 23)."""
    import numpy as np

    stages = sums[..., STAGES].reshape(*sums.shape[:-1], len(WEIGHTS), 4)
    matched = _weigh(stages[..., :2], stages[..., 2:])  # (..., 4, 2): of caption and reference
    content = sums[..., [LENGTH, REFERENCE_LENGTH]] - sums[..., [FUNCTION, REFERENCE_FUNCTION]]
    words = _weigh(content, sums[..., [FUNCTION, REFERENCE_FUNCTION]])  # (..., 2)
    with np.errstate(divide="ignore", invalid="ignore"):  # without words or matches the figure is 0
        ratios = np.einsum("...ij,i->...j", matched, np.array(WEIGHTS)) / words
        precision, recall = ratios[..., 0], ratios[..., 1]
        mean = precision * recall / (ALPHA * precision + (1 - ALPHA) * recall)
        fragmentation = 2 * sums[..., CHUNKS] / (sums[..., MATCHED] + sums[..., REFERENCE_MATCHED])
        figure = mean * (1 - GAMMA * fragmentation**BETA)
    return np.where(figure > 0, figure, 0.0)


def _weigh(content: "NDArray[np.float64]", function: "NDArray[np.float64]") -> "NDArray[np.float64]":
    return DELTA * content + (1 - DELTA) * function
