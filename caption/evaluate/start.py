"""Evaluation as one call: captions of models or of files against references, with intervals and differences.

    from clipcap.caption.evaluate import evaluate

    evaluate("cache.h5", ["checkpoints/best"], split="test")
    evaluate(predictions=["results.json"], references="captions_val2017.json").evaluated[0].scores["CIDEr"].corpus

Knows nothing of command lines, and writes nothing.
"""

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path

from clipcap.caption.decoding.options import DecodeOptions
from clipcap.caption.evaluate.base import Difference, Evaluated, Evaluation
from clipcap.caption.evaluate.captioners import CaptionedImages, caption_cache, common_places, match_files
from clipcap.caption.evaluate.figures import describe_text, prepare_scorers
from clipcap.caption.evaluate.matching import choose_split, split_to_caption
from clipcap.caption.evaluate.predictions import read_predictions
from clipcap.caption.evaluate.references import CACHES, Reference, References, read_references
from clipcap.caption.evaluate.scorer import ScoredImages, Scorer, Sources
from clipcap.caption.settings import DEFAULT_MODEL, CaptionerSettings
from clipcap.data.cache.index import Cache
from clipcap.data.command.progress import Progress, plural
from clipcap.data.errors import UsageError
from clipcap.data.metrics import tokenize_all
from clipcap.data.metrics.bootstrap import difference_interval, interval
from clipcap.data.readers import Columns
from clipcap.data.remote import is_url
from clipcap.train.model.find import find_checkpoint

logger = logging.getLogger(__name__)

TRAIN = "train"
BLOCK = 10_000  # captions between two signs of progress
Paths = str | Path | Sequence[str | Path]


def evaluate(
    cache: str | Path | None = None,
    models: Paths = (),
    settings: CaptionerSettings | None = None,
    *,
    decode: str | None = None,
    options: DecodeOptions | None = None,
    split: str | None = None,
    predictions: Paths = (),
    references: str | Path | None = None,
    format: str | None = None,
    columns: Columns | None = None,
    images: str | Path | None = None,
    metric: Sequence[str] = (),
    exact: bool = False,
    baseline: bool = True,
) -> Evaluation:
    """Score captioners: models on the embeddings of a cache, and files of captions.

    All captioners are scored on the same images: those that each of them has a caption of.

    Args:
        cache: its images are captioned without loading CLIP, and its captions are the references.
        models: checkpoints that caption the cache. Default: `checkpoints/best`, if there are no `predictions`.
        settings: of the captioners; their device and precision also hold for a metric's model.
        decode, options: of decoding, as for `clipcap.caption.caption`.
        split: of the references, the only split to evaluate. Default: the split that most predictions lie in; without
            predictions test, else val.
        predictions: files of captions or their URLs, as `read_predictions` reads them.
        references: of the predictions, as `read_references` reads them. Default: those of the cache.
        format, columns: of the references, where they should not be guessed.
        images: the folder that the paths of the images are relative to, or its URL, if the images are not found
            without it.
        metric: names of metrics besides BLEU, ROUGE-L and CIDEr-D: `meteor`, `spice`, `clipscore`, `bertscore`.
        exact: let the COCO toolkit itself compute all that it knows.
        baseline: whether captions of the nearest training image are scored as well, if a cache has a training split.

    Returns:
        The captioners in the order given, models first.

    Raises:
        UsageError: parameters contradict each other, a metric lacks what it needs, or there is no such split.
        SourceError: a file cannot be read, or more than half of the captions or of the references have no partner.
        CacheError, CheckpointError, ModelError: the cache or a model cannot be opened, or they do not fit.
    """
    settings = settings or CaptionerSettings()
    files = list(dict.fromkeys(_listed(predictions)))
    cache, source, model_paths = _choose_inputs(cache, list(map(Path, _listed(models))), files, references)
    if cache is not None:
        Cache.open(cache)  # what is missing is an early error, the models as well
    checkpoints = {path: find_checkpoint(path) for path in model_paths}
    predicted = [found for path in files for found in read_predictions(path)]
    known = read_references(source, format, columns, images)
    for note in known.notes:
        logger.info(note)
    if known.without:
        logger.info(f"{plural(known.without, 'image')} of {known.path} without captions left out")
    names = [name for one in predicted for name in one.captions]
    split = choose_split(names, known, split) if predicted else split_to_caption(known, split)
    chosen = [image for image in known.images if split is None or image.split == split]
    scorers = prepare_scorers(metric, Sources(cache=cache, settings=settings), exact=exact)
    captioned = match_files(predicted, known, chosen)
    if cache is not None and checkpoints:
        captioned = caption_cache(cache, split, checkpoints, chosen, settings, decode, options) + captioned
    places = common_places(captioned, chosen)
    judge = _Judge(scorers, [chosen[place] for place in places], _training_captions(known, split))
    with Progress("scoring", "captioners", len(captioned)) as progress:
        evaluated = []
        for one in captioned:
            evaluated.append(judge.evaluate(one, [one.captions[place] for place in places]))
            progress.advance()
    baselines: list[Evaluated] = []
    if cache is not None and split is not None and baseline:
        baselines = [
            judge.evaluate(CaptionedImages(name=name, captions={}), captions)
            for name, captions in _copied_captions(
                _embeddings_of(cache, checkpoints.values()), split, [chosen[place].id for place in places]
            ).items()
        ]
    return Evaluation(
        evaluated=evaluated, baselines=baselines, differences=_differences(evaluated), cache=cache, split=split
    )


class _Judge:
    """Scores captioners on one set of images.

    Args:
        scorers: the metrics.
        images: with their references.
        training: the captions of the training set; None if they are not known.
    """

    def __init__(self, scorers: Sequence[Scorer], images: Sequence[Reference], training: list[str] | None) -> None:
        self._scorers = scorers
        self._images = ScoredImages(ids=[one.id for one in images], references=[one.captions for one in images])
        self._files = [one.image for one in images]
        self._training = None if training is None else _tokenise(training)

    def evaluate(self, captioned: CaptionedImages, captions: list[str]) -> Evaluated:
        """Score the captions of one captioner, one for each image."""
        scores = {name: one for scorer in self._scorers for name, one in scorer(captions, self._images).items()}
        return Evaluated(
            name=captioned.name,
            ids=self._images.ids,
            captions=captions,
            references=self._images.references,
            images=self._files,
            scores=scores,
            intervals={name: interval(score) for name, score in scores.items()},
            text=describe_text(captions, self._training),
            unmatched=captioned.unmatched,
            checkpoint=captioned.checkpoint,
        )


def _tokenise(captions: Sequence[str]) -> set[str]:
    """Tokenise the captions of a training set, which takes seconds for 100,000 of them."""
    tokens: set[str] = set()
    with Progress("tokenising", "training captions", len(captions)) as progress:
        for first in range(0, len(captions), BLOCK):
            block = captions[first : first + BLOCK]
            tokens.update(tokenize_all(block))
            progress.advance(len(block))
    return tokens


def _embeddings_of(cache: Path, checkpoints: Iterable[Path]) -> Cache:
    """Open a cache with the embeddings that the first model was trained on, where it has those of several encoders."""
    opened = Cache.open(cache)
    recorded = next((path for path in checkpoints if path.is_dir()), None)
    if recorded is None or len(opened.fingerprints) == 1:
        return opened
    from clipcap.caption.trained_encoder import choose_embeddings
    from clipcap.train.model.checkpoint import read_config

    return choose_embeddings(opened, read_config(recorded).encoder)[0]


def _copied_captions(cache: Cache, split: str, ids: Sequence[str]) -> dict[str, list[str]]:
    """Return the captions of the baselines by their names: none where there are no training images."""
    from clipcap.caption.evaluate.baseline import nearest_captions

    logger.info("searching the nearest training image of each image, whose captions are the baseline")
    nearest = nearest_captions(cache, split)
    if nearest is None:
        logger.info(f"{cache.path} has no training images with captions, so there is no baseline")
        return {}
    rows = dict(zip(nearest.ids, zip(nearest.captions, nearest.consensus, strict=True), strict=True))
    copied, consensus = zip(*(rows[identifier] for identifier in ids), strict=True)
    return {"nearest image": list(copied), "consensus of the nearest image": list(consensus)}


def _differences(evaluated: Sequence[Evaluated]) -> list[Difference]:
    """Compare each other captioner with the first one, in each metric."""
    first = evaluated[0]
    return [
        Difference(
            first=other.name,
            second=first.name,
            metric=metric,
            images=len(first.ids),
            value=score.corpus - first.scores[metric].corpus,
            interval=difference_interval(score, first.scores[metric]),
        )
        for other in evaluated[1:]
        for metric, score in other.scores.items()
    ]


def _listed(given: Paths) -> list[str | Path]:
    """Return URLs as text, and everything else as paths."""
    return [one if is_url(one) else Path(one) for one in ([given] if isinstance(given, str | Path) else given)]


def _choose_inputs(
    cache: str | Path | None, models: list[Path], files: list[str | Path], references: str | Path | None
) -> tuple[Path | None, str | Path, list[Path]]:
    """Check that the inputs go together.

    Returns:
        The cache, where the references come from, and the models.
    """
    if cache is not None and references is not None:
        raise UsageError(f"{cache} has references of its own; leave `references` out, or `cache`")
    if cache is None and references is None:
        if files:
            raise UsageError("`predictions` need `references`: a cache, a dataset, or {id: [caption, ...]}")
        raise UsageError("there is nothing to evaluate; give a `cache`, or `predictions` with `references`")
    if cache is None and not files:
        raise UsageError("`references` are for `predictions`; give these too")
    if cache is None and models:
        raise UsageError("`models` caption a cache; give it as `cache`")
    if is_url(references):
        return None, references, []
    source = Path(cache if cache is not None else references)  # type: ignore[arg-type]
    if cache is None and source.suffix.lower() not in CACHES:
        return None, source, []
    if not models and not files:
        models = [Path(DEFAULT_MODEL)]
    return source, source, list(dict.fromkeys(models))


def _training_captions(known: References, split: str | None) -> list[str] | None:
    """Return the captions of the training split; None if there is none, or if it is the one that is evaluated."""
    captions = [text for image in known.images if image.split == TRAIN for text in image.captions]
    return captions if captions and split != TRAIN else None
