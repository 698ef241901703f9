"""What an evaluation is: captioners on one set of images, with their figures, intervals and differences."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from clipcap.data.image_store import StoredImage
from clipcap.data.metrics.base import Score

FEWEST = 6  # images: five that all favour one captioner do so by chance once in 16 times, more than the 5 % allowed
ROUNDING = 1e-6  # models give a caption another figure beside other captions, by less than this


@dataclass(frozen=True, kw_only=True)
class Evaluated:
    """The captions that one captioner gave N images, and their figures.

    Attributes:
        name: the checkpoint or the file of predictions as it was given, or the name of a baseline.
        ids: of the images.
        captions: one for each image, as the captioner wrote it.
        references: of each image, as the dataset has them.
        images: the images, where they are found.
        scores: by the names of the COCO toolkit: `Bleu_1`, ..., `ROUGE_L`, `CIDEr`, and those that were asked for.
        intervals: the 95 % bootstrap interval of each score.
        text: `distinct_captions` and `vocabulary` (numbers), `mean_length` (tokens), `in_training` (the share of
            captions that stand in the training set word for word; None where no training set is known).
        unmatched: ids without a partner, under `predictions_without_references` and `references_without_predictions`.
        checkpoint: the folder or file of the model, if a model made the captions.
    """

    name: str
    ids: list[str]
    captions: list[str]
    references: list[list[str]]
    images: Sequence[Path | StoredImage | None]
    scores: dict[str, Score]
    intervals: dict[str, tuple[float, float]]
    text: dict[str, float | int | None]
    unmatched: dict[str, list[str]] = field(default_factory=dict)
    checkpoint: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Difference:
    """How much one captioner is ahead of another in one metric, on the same images.

    Attributes:
        first, second: names of the captioners.
        metric: name of the score.
        images: number of images.
        value: the figure of the first minus that of the second.
        interval: the 95 % bootstrap interval of `value`, over the same draws of images for both.
    """

    first: str
    second: str
    metric: str
    images: int
    value: float
    interval: tuple[float, float]

    @property
    def is_clear(self) -> bool:
        """Whether one of the two can be called better: the interval leaves out zero, and the images are not too few."""
        low, high = self.interval
        return self.images >= FEWEST and (low > ROUNDING or high < -ROUNDING)


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Everything that `clipcap-evaluate` found out.

    Attributes:
        evaluated: the captioners, in the order given.
        baselines: captioners that copy captions of the training set: `nearest image`, `consensus of the nearest image`.
        differences: of each other captioner to the first one, in each metric.
        cache: the cache whose images were captioned, if it was one.
        split: the split of the images, if it is known.
    """

    evaluated: list[Evaluated]
    baselines: list[Evaluated] = field(default_factory=list)
    differences: list[Difference] = field(default_factory=list)
    cache: Path | None = None
    split: str | None = None
