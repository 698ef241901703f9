"""Checks that images and captions belong together: whether they were shuffled, or shifted against each other."""

import logging
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipcap.caption.inspect.doctor.alignment import (
    PCA_ROWS,
    Segment,
    align,
    component_count,
    components,
    evidence,
    segment,
    whitened,
)
from clipcap.caption.inspect.doctor.content import BLOCK, CacheContent, unit
from clipcap.caption.inspect.doctor.finding import Facts, Finding, first_examples
from clipcap.caption.inspect.doctor.rows import copied_blocks, equal_rows
from clipcap.data.cache.fingerprint import UNKNOWN
from clipcap.data.command.progress import plural
from clipcap.data.errors import ClipCapError

logger = logging.getLogger(__name__)

WORDS = 1000  # tokens that captions are compared by: those that tell most about an image
RARE = 3  # images that must have a token; what is rarer relates an image to too few others
LEAST_ROWS = 150  # captioned images; of fewer, healthy ones are not safely told from shuffled ones
RELATED = 5.0  # z of related rows: 150 healthy images reach 14 to 43, and shuffled ones stay below 3 (Flickr8k, demo)
SHIFTED = 8.0  # z from which a shift is considered; unrelated rows stay below 7 at their best shift of all
SHIFTS = 16  # shifts that are considered together, as where images are missing at several places
COMPARED = 500  # images that are compared by the text tower, evenly spaced; of a trained CLIP, z is above 20 for them
LEAST_COMPARED = 20  # of fewer, a CLIP that knows its images well has no z of 5
SMALLEST = 20  # rows in a row that are reported: fewer may be one album of unusual images


def check_pairing(content: CacheContent, facts: Facts) -> Iterator[Finding]:
    """Find captions that belong to other images: all or a run of rows shuffled, or shifted by some rows.

    Images that are alike have captions that are alike. How strongly they do is compared for all shifts of the captions
    against the images. The measure has no scale, and needs no encoder of text. Where the encoder has a text tower, that
    one decides whether the rows belong together without a shift.
    """
    used = content.usable & (content.captions > 0)
    for first, _, rows in copied_blocks(equal_rows(content)):  # a finding of its own
        used[first : first + rows] = False
    figures: dict[str, Any] = {}
    facts["images_and_captions"] = figures
    by_text = _z_by_text_tower(content, used, figures)
    if used.sum() < LEAST_ROWS:
        figures["by_the_words"] = (
            f"not compared: {plural(int(used.sum()), 'image')} with captions are too few, {LEAST_ROWS} are needed"
        )
        parts: list[Segment] = []
        related = True
    else:
        parts, related = _segments(content, used, figures)
    shifted: dict[int, list[Segment]] = {}
    for part in parts:
        if part.shift and len(part) >= SMALLEST:
            shifted.setdefault(part.shift, []).append(part)
    for shift, segments in shifted.items():
        yield _shifted(content, shift, segments)
    unrelated = [part for part in parts if part.shift is None and len(part) >= SMALLEST]
    if unrelated:
        yield _shuffled(content, sum(map(len, unrelated)), unrelated)
    elif not shifted and (by_text < RELATED if by_text is not None else not related):
        yield _shuffled(content, int(used.sum()), [])


def _segments(content: CacheContent, used: NDArray[np.bool_], figures: dict[str, Any]) -> tuple[list[Segment], bool]:
    """Return the segments of equal shift, none if there is no relation at any, and whether there is one at all."""
    count = component_count(int(used.sum()))
    logger.info("comparing images with the words of captions, at every shift")
    x, y = _image_columns(content, used, count), _caption_columns(content, used, count)
    if not y.shape[1]:
        figures["by_the_words"] = "not compared: all images have the same words"
        return [], True
    found = align(x, y)
    here = float(found.z[0])
    figures["z_by_the_words"] = round(here, 1)
    figures["z_by_the_words_at_the_best_other_shift"] = round(float(found.z[1:].max()), 1)
    shifts = [0, *(shift for shift in found.peaks(SHIFTED, SHIFTS) if shift)]
    if len(shifts) == 1 and here < RELATED:
        return [], False
    return segment(evidence(x, y, shifts), shifts), True


def _z_by_text_tower(content: CacheContent, used: NDArray[np.bool_], figures: dict[str, Any]) -> float | None:
    """Return how far the cosine of images with their own captions is above that with others'; None if not known.

    It is in standard deviations of the mean cosine over all permutations of the captions, which are known exactly.
    """
    from clipcap.data.pretrained.device import choose_device
    from clipcap.precompute.text_tower import load_text_tower

    rows = _spaced(np.flatnonzero(used), COMPARED)
    if content.fingerprint.encoder == UNKNOWN or len(rows) < LEAST_COMPARED:
        return None
    try:
        tower = load_text_tower(content.fingerprint, device=choose_device("auto"))
    except ClipCapError as error:
        figures["by_the_text_tower"] = f"not compared: {error}"
        return None
    logger.info(f"comparing {plural(len(rows), 'image')} with captions by the text tower of {tower.name}")
    texts = tower.encode([content.text[content.first_caption[row]] for row in rows]).numpy()
    cosine = unit(content.embedding[rows]) @ unit(texts).T
    cosine -= cosine.mean(axis=0) + cosine.mean(axis=1, keepdims=True) - cosine.mean()
    z = float(np.trace(cosine) / max(np.sqrt(np.square(cosine).sum() / (len(rows) - 1)), 1e-12))
    figures["z_by_the_text_tower"] = round(z, 1)
    return z


def _shuffled(content: CacheContent, count: int, segments: list[Segment]) -> Finding:
    where = f", in {_spans(content, segments)}" if segments else ""
    return Finding(
        check="shuffled",
        count=count,
        total=len(content),
        message=f"the captions of {plural(count, 'image')} fit their images no better than shuffled captions{where}",
        cause="embeddings and captions that were put in different orders, or an encoder that was not trained, or that "
        "does not see what the captions say",
        fix=content.command("assign captions to images by name, not by position"),
        examples=first_examples([_span(content, part) for part in segments]),
    )


def _shifted(content: CacheContent, shift: int, segments: list[Segment]) -> Finding:
    count = sum(map(len, segments))
    cause = (
        "an image that has captions and no embedding, or the other way round, with rows that were counted on after it"
        if count < len(content)
        else "embeddings and captions that were counted from different rows"
    )
    return Finding(
        check="shifted",
        count=count,
        total=len(content),
        message=f"the captions of row i belong to the embedding of row i{shift:+d}, in {_spans(content, segments)} "
        f"({plural(count, 'row')})",
        cause=cause,
        fix=content.command("assign captions to images by name, not by position"),
        examples=first_examples([_span(content, part) for part in segments]),
    )


def _spans(content: CacheContent, segments: list[Segment]) -> str:
    if len(segments) == 1 and len(segments[0]) == len(content):
        return "all rows"
    if len(segments) == 1 and segments[0].last == len(content):
        return f"all rows from row {segments[0].first} on"
    return ", ".join(f"rows {part.first}-{part.last - 1}" for part in segments[:3]) + (
        f" and {len(segments) - 3} more places" if len(segments) > 3 else ""
    )


def _span(content: CacheContent, part: Segment) -> str:
    return f"rows {part.first}-{part.last - 1}, from {content.path[part.first]} to {content.path[part.last - 1]}"


def _image_columns(content: CacheContent, used: NDArray[np.bool_], count: int) -> NDArray[np.float32]:
    """Return the principal components of the embeddings, whitened: float32 (n, count); rows not used are 0."""
    rows = np.flatnonzero(used)
    mean, directions = components(content.directions(_spaced(rows, PCA_ROWS)), min(count, content.embedding.shape[1]))
    columns = np.zeros((len(content), directions.shape[1]), dtype=np.float32)
    for start in range(0, len(rows), BLOCK):
        block = rows[start : start + BLOCK]
        columns[block] = (content.directions(block) - mean) @ directions
    return whitened(columns, used)


def _caption_columns(content: CacheContent, used: NDArray[np.bool_], count: int) -> NDArray[np.float32]:
    """Return the principal components of the captions' tokens, whitened: float32 (n, count); rows not used are 0."""
    words = _Words(content, used)
    rows = np.flatnonzero(used)
    count = min(count, len(words))
    mean, directions = components(words.rows(_spaced(rows, PCA_ROWS)), count)
    columns = np.zeros((len(content), count), dtype=np.float32)
    for start in range(0, len(rows), BLOCK):
        block = rows[start : start + BLOCK]
        columns[block] = (words.rows(block) - mean) @ directions
    return whitened(columns, used)


class _Words:
    """Which of the telling tokens the captions of each image have, weighted by how few images have them (tf-idf).

    Args:
        content: the cache.
        used: bool (n), the images that count.
    """

    def __init__(self, content: CacheContent, used: NDArray[np.bool_]) -> None:
        image = np.repeat(content.image_of_caption, content.tokens)
        kinds = int(content.token.max(initial=0)) + 1
        pairs = np.unique(image * kinds + content.token)  # each token of an image once, in the order of the images
        image, token = pairs // kinds, pairs % kinds
        image, token = image[used[image]], token[used[image]]
        having = np.bincount(token, minlength=kinds)
        images = int(used.sum())
        telling = (having >= RARE) & (having <= images / 2)
        weight = np.where(telling, np.log(images / np.maximum(having, 1)), 0).astype(np.float32)
        chosen = np.argsort(-having * weight**2, kind="stable")[:WORDS]
        chosen = chosen[telling[chosen]]
        column = np.full(kinds, -1)
        column[chosen] = np.arange(len(chosen))
        kept = column[token] >= 0
        self._first = np.searchsorted(image[kept], np.arange(len(content) + 1))
        self._column, self._weight = column[token[kept]], weight[token[kept]]
        self._count = len(chosen)

    def __len__(self) -> int:
        return self._count

    def rows(self, images: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the weights of the tokens of images (b), each row scaled to length 1: float32 (b, words)."""
        result = np.zeros((len(images), self._count), dtype=np.float32)
        for number, image in enumerate(images):
            own = slice(self._first[image], self._first[image + 1])
            result[number, self._column[own]] = self._weight[own]
        return unit(result)


def _spaced(rows: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Return at most `count` of the rows, evenly spaced."""
    count = min(count, len(rows))
    return rows[np.arange(count) * len(rows) // max(1, count)]
