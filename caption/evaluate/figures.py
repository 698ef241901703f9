"""Computes the figures of captions: the core metrics, those that need a model or another program, and counts of words.

A scorer is prepared before captions are made, so that what it lacks is known early. To add a metric that needs more
than tokenised text, write a function that prepares its scorer, and its line in `EXTRA`.
"""

from collections.abc import Callable, Iterable, Sequence

from clipcap.caption.evaluate.scorer import ScoredImages, Scorer, Sources
from clipcap.data.errors import UsageError
from clipcap.data.metrics import METRICS, Score, tokenize_all
from clipcap.data.metrics.base import ScoreCaptions


def prepare_scorers(names: Iterable[str], sources: Sources, *, exact: bool) -> list[Scorer]:
    """Prepare the core metrics and those that were asked for.

    Args:
        names: in `TOOLKIT` or `EXTRA`; those of the core metrics are allowed, and change nothing.
        sources: what they may need.
        exact: whether the COCO toolkit computes the core metrics, instead of this program.

    Raises:
        UsageError: a metric is not known, or lacks what it needs.
        ModelError: a model that it needs cannot be loaded.
    """
    wanted = list(dict.fromkeys(names))
    for name in wanted:
        if name not in (*METRICS, *TOOLKIT, *EXTRA):
            raise UsageError(f"`metric` {name} is not known; use {', '.join((*METRICS, *TOOLKIT, *EXTRA))}")
    scorers: list[Scorer] = [] if exact else [_CoreScorer()]
    by_toolkit = [*(METRICS if exact else ()), *(name for name in wanted if name in TOOLKIT)]
    if by_toolkit:  # in one call, whose start and tokens take most of the time
        scorers.append(_prepare_toolkit(by_toolkit))
    return scorers + [EXTRA[name](sources) for name in wanted if name in EXTRA]


def describe_text(captions: Sequence[str], training: set[str] | None) -> dict[str, float | int | None]:
    """Count the words of captions, after tokenisation.

    Args:
        captions: as the captioner wrote them.
        training: the tokenised captions of the training set; None if it is not known.

    Returns:
        What `Evaluated.text` holds.
    """
    tokens = tokenize_all(captions)
    words = [caption.split() for caption in tokens]
    return {
        "distinct_captions": len(set(tokens)),
        "vocabulary": len({word for some in words for word in some}),
        "mean_length": sum(map(len, words)) / len(words),
        "in_training": None if training is None else sum(caption in training for caption in tokens) / len(tokens),
    }


class _CoreScorer:
    """Computes the metrics of `METRICS`. The references of a set of images are tokenised and prepared once."""

    def __init__(self) -> None:
        self._images: ScoredImages | None = None
        self._prepared: list[ScoreCaptions] = []

    def __call__(self, captions: Sequence[str], images: ScoredImages) -> dict[str, Score]:
        if self._images is not images:
            tokens = iter(tokenize_all(text for some in images.references for text in some))
            references = [[next(tokens) for _ in some] for some in images.references]
            self._prepared = [metric(references) for metric in METRICS.values()]
            self._images = images
        tokenised = tokenize_all(captions)
        return {name: score for scored in self._prepared for name, score in scored(tokenised).items()}


def _prepare_toolkit(names: Sequence[str]) -> Scorer:
    from clipcap.data.metrics.toolkit import check_toolkit, toolkit_scores

    check_toolkit(names)
    return lambda captions, images: toolkit_scores(captions, images.references, names)


def _prepare_clipscore(sources: Sources) -> Scorer:
    if sources.cache is None:
        raise UsageError("`metric` clipscore compares captions with the embeddings of a cache; give a `cache`")
    from clipcap.caption.evaluate.clipscore import ClipScorer

    return ClipScorer(sources.cache, sources.settings)


def _prepare_bertscore(sources: Sources) -> Scorer:
    from clipcap.data.metrics.bertscore import BertScorer

    scorer = BertScorer(device=sources.settings.device)
    return lambda captions, images: scorer(captions, images.references)


TOOLKIT = ("meteor", "spice")  # which only the COCO toolkit computes
EXTRA: dict[str, Callable[[Sources], Scorer]] = {
    "clipscore": _prepare_clipscore,
    "bertscore": _prepare_bertscore,
}
