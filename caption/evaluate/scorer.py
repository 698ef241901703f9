"""What a scorer is: it gives captions of a set of images their figures."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from clipcap.caption.settings import CaptionerSettings
from clipcap.data.metrics import Score


@dataclass(frozen=True, kw_only=True)
class ScoredImages:
    """The images of an evaluation: their ids, and their references as the dataset has them."""

    ids: list[str]
    references: list[list[str]]


@dataclass(frozen=True, kw_only=True)
class Sources:
    """What a scorer may need besides captions and references.

    Attributes:
        cache: with the embeddings of the images, if there is one.
        settings: device, precision and weights of a model.
    """

    cache: Path | None
    settings: CaptionerSettings


Scorer = Callable[[Sequence[str], ScoredImages], dict[str, Score]]
