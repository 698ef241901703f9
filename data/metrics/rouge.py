"""ROUGE-L as the COCO caption toolkit computes it.

With L(c, r) the length of the longest common subsequence of a caption c and a reference r:

    P = max over r of L(c, r) / |c|,    R = max over r of L(c, r) / |r|,    ROUGE-L = (1 + b^2) P R / (R + b^2 P)

with b = 1.2. P and R may come from different references. The corpus figure is the mean over the images.

Source: Lin 2004, "ROUGE: A Package for Automatic Evaluation of Summaries"; the COCO caption toolkit (arXiv:1504.00325).
"""

from collections.abc import Sequence

from clipcap.data.metrics.base import Score, ScoreCaptions, check_pairs, check_references, mean_score

BETA = 1.2


def rouge_l(references: Sequence[Sequence[str]]) -> ScoreCaptions:
    """Prepare ROUGE-L against the references of N images, between 0 and 1.

    Args, Returns, Raises: as for `bleu`; the figure is `ROUGE_L`.
    """
    check_references(references)
    prepared = [[reference.split(" ") for reference in some] for some in references]

    def score(captions: Sequence[str]) -> dict[str, Score]:
        import numpy as np

        check_pairs(captions, references)
        images = [_image(caption, some) for caption, some in zip(captions, prepared, strict=True)]
        return {"ROUGE_L": mean_score(np.array(images, np.float64))}

    return score


def _image(caption: str, references: Sequence[list[str]]) -> float:
    """Compute the ROUGE-L of one image. As in the toolkit, an empty caption is one empty token."""
    words = caption.split(" ")
    positions: dict[str, int] = {}  # of each token of the caption, as bits
    for index, word in enumerate(words):
        positions[word] = positions.get(word, 0) | 1 << index
    precision = recall = 0.0
    for others in references:
        common = _common(positions, len(words), others)
        precision = max(precision, common / len(words))
        recall = max(recall, common / len(others))
    if not precision or not recall:
        return 0.0
    return (1 + BETA**2) * precision * recall / (recall + BETA**2 * precision)


def _common(positions: dict[str, int], length: int, others: list[str]) -> int:
    """Compute the length of the longest common subsequence, all positions at once as the bits of one integer.

    Each zero bit of `row` is a position at which the subsequence grows (Hyyrö 2004, "Bit-parallel LCS-length
    computation revisited").
    """
    full = (1 << length) - 1
    row = full
    for other in others:
        matched = row & positions.get(other, 0)
        row = ((row + matched) | (row - matched)) & full
    return length - row.bit_count()
