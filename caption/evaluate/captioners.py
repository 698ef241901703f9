"""Gathers the captions of each captioner: models caption a split of a cache, and files hold captions already."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from clipcap.caption.decoding.options import DecodeOptions
from clipcap.caption.evaluate.matching import check_matched, match
from clipcap.caption.evaluate.predictions import Predictions
from clipcap.caption.evaluate.references import Reference, References
from clipcap.caption.settings import CaptionerSettings
from clipcap.data.cache.index import Cache
from clipcap.data.command.progress import Progress, plural
from clipcap.data.errors import SourceError, UsageError
from clipcap.data.records import SPLITS

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class CaptionedImages:
    """The captions of one captioner.

    Attributes:
        name: the checkpoint or the file.
        captions: by the place of the image among those that are evaluated.
        unmatched: as `Evaluated.unmatched`.
        checkpoint: of a model.
    """

    name: str
    captions: dict[int, str]
    unmatched: dict[str, list[str]] = field(default_factory=dict)
    checkpoint: Path | None = None


def caption_cache(
    cache: Path,
    split: str | None,
    checkpoints: Mapping[Path, Path],
    images: Sequence[Reference],
    settings: CaptionerSettings,
    decode: str | None,
    options: DecodeOptions | None,
) -> list[CaptionedImages]:
    """Caption a split of a cache with one model after the other, without loading CLIP.

    Args:
        cache: the cache.
        split: to caption.
        checkpoints: the checkpoint that each model's path means.
        images: those of the split that have captions; captions of other rows are left out.
        settings, decode, options: as for `clipcap.caption.caption`.

    Raises:
        SourceError, UsageError, CheckpointError, CacheError: as `clipcap.caption.caption`.
    """
    from clipcap.caption.start import caption  # brings torch, which files of captions do not need

    ids = _row_ids(cache, split)
    places = {image.id: place for place, image in enumerate(images)}
    captions: dict[Path, dict[int, str]] = {path: {} for path in checkpoints}
    results = caption([cache], list(checkpoints), settings, decode=decode, options=options, split=split)
    with Progress("captioning", "images", len(ids) * len(checkpoints)) as progress:
        for result in results:
            place = places.get(ids[result.number])
            if place is not None:
                captions[result.model][place] = result.captions[0]
            progress.advance()
    return [
        CaptionedImages(name=str(path), captions=captions[path], checkpoint=checkpoint)
        for path, checkpoint in checkpoints.items()
    ]


def match_files(
    predicted: Sequence[Predictions], references: References, images: Sequence[Reference]
) -> list[CaptionedImages]:
    """Find the image of each caption in files, and say which have none.

    Args:
        predicted: the captions.
        references: where the references come from.
        images: those that are evaluated.

    Raises:
        SourceError: most captions or images have no partner, or an image has two captions.
    """
    captioned = []
    for one, name in zip(predicted, _names(predicted), strict=True):
        found = match(one.captions, images)
        check_matched(name, len(one.captions), references, found, images)
        unmatched = {
            "predictions_without_references": found.unknown,
            "references_without_predictions": [images[place].id for place in found.missing],
        }
        captioned.append(CaptionedImages(name=name, captions=found.captions, unmatched=unmatched))
    return captioned


def common_places(captioned: Sequence[CaptionedImages], images: Sequence[Reference]) -> list[int]:
    """Return the places of the images that every captioner has a caption of.

    Raises:
        UsageError: two captioners have one name.
        SourceError: these are fewer than half of the images.
    """
    names = [one.name for one in captioned]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UsageError(f"two captioners are called {twice}; give each of them once")
    places = [place for place in range(len(images)) if all(place in one.captions for one in captioned)]
    most = max(len(one.captions) for one in captioned)
    if 2 * len(places) < len(images):
        raise SourceError(
            f"only {len(places):,} of {plural(len(images), 'image')} have a caption of every captioner; evaluate those "
            "of different images one by one"
        )
    if len(places) < most:
        logger.warning(f"{plural(len(places), 'image')} that every captioner has a caption of are scored, not {most:,}")
    return places


def _names(predicted: Sequence[Predictions]) -> list[str]:
    """Name captioners by the model where a file names it, else by the file, and by both where models have one name."""
    short = [one.model or str(one.path) for one in predicted]
    return [
        f"{one.path} [{one.model}]" if one.model and short.count(name) > 1 else name
        for one, name in zip(predicted, short, strict=True)
    ]


def _row_ids(cache: Path, split: str | None) -> list[str]:
    """Return the ids of the rows of a split, in the order in which they are captioned."""
    number = None if split is None else SPLITS.index(split)
    return [
        identifier
        for tables in Cache.open(cache).tables(embeddings=False)
        for identifier, one in zip(tables.id, tables.split.tolist(), strict=True)
        if number is None or one == number
    ]
