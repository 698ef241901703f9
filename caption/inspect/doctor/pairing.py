"""Checks that images and captions belong together: whether they were shuffled, or shifted against each other."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipcap.caption.inspect.doctor.alignment import (
    Segment,
    align,
    component_count,
    evidence,
    peaks,
    segment,
    standing_out,
)
from clipcap.caption.inspect.doctor.columns import caption_columns, image_columns
from clipcap.caption.inspect.doctor.content import CacheContent
from clipcap.caption.inspect.doctor.finding import Facts, Finding, first_examples
from clipcap.caption.inspect.doctor.rows import copied_blocks
from clipcap.caption.neighbours import unit
from clipcap.data.cache.fingerprint import UNKNOWN
from clipcap.data.command.progress import plural
from clipcap.data.errors import ClipCapError
from clipcap.data.records import SPLITS
from clipcap.data.spaced import spaced

logger = logging.getLogger(__name__)

LEAST_ROWS = 150  # captioned images; of fewer, healthy ones are not safely told from shuffled ones
RELATED = 5.0  # z of related rows: 150 healthy images reach 14 to 43, and shuffled ones stay below 3 (Flickr8k, demo)
SHIFTED = 8.0  # z from which a shift is considered; unrelated rows stay below 7 at their best shift of all
SHIFTS = 16  # shifts that are considered together, as where images are missing at several places
DISTINCT = 4.0  # standard errors that a shift must explain rows better than none; rows sorted by class have below 2
SMALLEST = 20  # rows of a run, or images of a split, that are reported: fewer may be one album of unusual images
COMPARED = 500  # images that are compared by the text tower, evenly spaced; on the demo, z is 85 for them
LEAST_COMPARED = 20  # images that the text tower needs: z grows like the root of their number


@dataclass(frozen=True, kw_only=True)
class Relation:
    """How the rows of embeddings and captions belong together, by the words of the captions.

    Attributes:
        related: whether there is a relation at any shift.
        segments: runs of rows with one shift; empty if the rows are not related.
        unrelated_splits: splits whose images have the captions of others, though there is no shift.
    """

    related: bool = True
    segments: Sequence[Segment] = ()
    unrelated_splits: Sequence[int] = ()


def check_pairing(content: CacheContent, facts: Facts) -> Iterator[Finding]:
    """Find captions that belong to other images: all, a run of rows or a split shuffled, or shifted by some rows.

    Images that are alike have captions that are alike. How strongly they do is compared for all shifts of the captions
    against the images. The measure has no scale, and needs no encoder of text. Where the encoder has a text tower, that
    one decides whether the rows belong together without a shift.
    """
    used = content.usable & (content.captions > 0)
    for first, _, rows in copied_blocks(content.equal_rows):  # a finding of its own
        used[first : first + rows] = False
    facts["images_and_captions"] = figures = dict[str, Any]()
    by_text = _z_by_text_tower(content, used, facts, figures)
    relation = _relation_by_words(content, used, figures)
    shifted = [part for part in relation.segments if part.shift and len(part) >= SMALLEST]
    unrelated = [part for part in relation.segments if part.shift is None and len(part) >= SMALLEST]
    if shifted:
        yield _shifted(content, shifted)
    if unrelated:
        examples = [_span(content, part) for part in unrelated]
        yield _shuffled(content, sum(map(len, unrelated)), f", in {_spans(content, unrelated)}", examples)
    for split in relation.unrelated_splits:
        count = int((used & (content.split == split)).sum())
        yield _shuffled(content, count, f", in the {SPLITS[split]} split")
    related = relation.related if by_text is None else by_text >= RELATED
    if not (related or shifted or unrelated or relation.unrelated_splits):
        yield _shuffled(content, int(used.sum()))


def _relation_by_words(content: CacheContent, used: NDArray[np.bool_], figures: dict[str, Any]) -> Relation:
    """Compare the images that are used with the words of their captions at every shift."""
    if used.sum() < LEAST_ROWS:
        few = plural(int(used.sum()), "image")
        figures["by_the_words"] = f"not compared: {few} with captions are too few, {LEAST_ROWS} are needed"
        return Relation()
    count = component_count(int(used.sum()))
    logger.info("comparing images with the words of captions, at every shift")
    x, y = image_columns(content, used, count), caption_columns(content, used, count)
    if not y.shape[1]:
        figures["by_the_words"] = "not compared: all images have the same words"
        return Relation()
    z = align(x, y)
    figures["z_by_the_words"] = round(float(z[0]), 1)
    figures["z_by_the_words_at_the_best_other_shift"] = round(float(z[1:].max()), 1)
    shifts = [0, *(shift for shift in peaks(standing_out(z), SHIFTED, SHIFTS) if shift)]
    if len(shifts) == 1 and z[0] < RELATED:
        return Relation(related=False)
    found = evidence(x, y, shifts)
    segments = [_distinct(part, found, shifts) for part in segment(found, shifts)]
    unshifted = np.concatenate([np.full(len(part), part.shift == 0) for part in segments])
    splits = []
    for split in range(len(SPLITS)):
        own = found[used & unshifted & (content.split == split), 0]
        if len(own) >= SMALLEST and own.mean() < -RELATED * own.std() / np.sqrt(len(own)):
            splits.append(split)
    return Relation(segments=segments, unrelated_splits=splits)


def _distinct(part: Segment, found: NDArray[np.float64], shifts: list[int]) -> Segment:
    """Return a segment with no shift instead of one that explains its rows hardly better than no shift does."""
    if not part.shift:
        return part
    rows = found[part.first : part.last]
    gain = rows[:, shifts.index(part.shift)] - rows[:, 0]
    is_distinct = gain.mean() > DISTINCT * gain.std() / np.sqrt(len(gain))
    return part if is_distinct else replace(part, shift=0)


def _z_by_text_tower(
    content: CacheContent, used: NDArray[np.bool_], facts: Facts, figures: dict[str, Any]
) -> float | None:
    """Return how far the cosine of images with their own captions is above that with others'; None if not known.

    It is in standard deviations of the mean cosine over all permutations of the captions, which are known exactly.
    """
    from clipcap.data.pretrained.device import choose_device
    from clipcap.precompute.encoders.clip_text import load_text_tower

    rows = spaced(np.flatnonzero(used), COMPARED)
    if content.fingerprint.encoder == UNKNOWN or len(rows) < LEAST_COMPARED:
        return None
    try:
        tower = load_text_tower(content.fingerprint, device=choose_device("auto"))
    except ClipCapError as error:
        facts["text_tower"] = f"not used: {error}"
        return None
    logger.info(f"comparing {plural(len(rows), 'image')} with captions by the text tower of {tower.name}")
    texts = tower.encode([content.text[content.first_caption[row]] for row in rows]).numpy()
    cosine = unit(content.embedding[rows]) @ unit(texts).T
    cosine -= cosine.mean(axis=0) + cosine.mean(axis=1, keepdims=True) - cosine.mean()
    z = float(np.trace(cosine) / max(np.sqrt(np.square(cosine).sum() / (len(rows) - 1)), 1e-12))
    figures["z_by_the_text_tower"] = round(z, 1)
    return z


def _shuffled(content: CacheContent, count: int, where: str = "", examples: Sequence[str] = ()) -> Finding:
    return Finding(
        check="shuffled",
        count=count,
        total=len(content),
        message=f"the captions of {plural(count, 'image')} fit their images no better than shuffled captions{where}",
        cause="embeddings and captions that were put in different orders, or an encoder that was not trained, or that "
        "does not see what the captions say",
        fix=content.command("assign captions to images by name, not by position"),
        examples=first_examples(examples),
    )


def _shifted(content: CacheContent, segments: Sequence[Segment]) -> Finding:
    count = sum(map(len, segments))
    shifts = {part.shift: [other for other in segments if other.shift == part.shift] for part in segments}
    places = [f"of row i{shift:+d} in {_spans(content, parts)}" for shift, parts in shifts.items()]
    return Finding(
        check="shifted",
        count=count,
        total=len(content),
        message=f"{count:,} of {plural(len(content), 'row')} are shifted: the captions of row i belong to the "
        f"embedding {'; '.join(places)}",
        cause="an image that has captions and no embedding, or the other way round, and rows that were counted on"
        if count < len(content)
        else "embeddings and captions that were counted from different rows",
        fix=content.command("assign captions to images by name, not by position"),
        examples=first_examples([f"shift {part.shift:+d}: {_span(content, part)}" for part in segments]),
    )


def _spans(content: CacheContent, segments: Sequence[Segment]) -> str:
    if len(segments) == 1 and len(segments[0]) == len(content):
        return "all rows"
    if len(segments) == 1 and segments[0].last == len(content):
        return f"all rows from row {segments[0].first} on"
    return ", ".join(f"rows {part.first}-{part.last - 1}" for part in segments[:3]) + (
        f" and {len(segments) - 3} more places" if len(segments) > 3 else ""
    )


def _span(content: CacheContent, part: Segment) -> str:
    return f"rows {part.first}-{part.last - 1}, from {content.path[part.first]} to {content.path[part.last - 1]}"
