"""Checks the splits of a cache: images that are on two sides of a split, and the size of the validation split."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from clipcap.caption.inspect.doctor.content import CacheContent
from clipcap.caption.inspect.doctor.finding import Facts, Finding, first_examples
from clipcap.caption.neighbours import Vectors, nearest
from clipcap.data.command.progress import plural
from clipcap.data.records import SPLITS

TRAIN = SPLITS.index("train")

TINY = 20  # images: with five captions each, the standard error of the loss is 0.06 nats, the gain of several epochs
HELD_OUT = 10_000  # images whose nearest training image is sought, drawn if there are more
WITHIN = 1_000  # training images whose nearest training image is sought, to know the usual distances
FEWEST = 50  # distances that the usual ones are told from
BELOW = 0.5  # of the least distance to expect: photos compressed again, cropped or mirrored have 0.02 to 0.5 of it
ROUNDING = 1e-4  # distance that rounding to float16 causes; what is nearer is the same in any case


def check_validation(content: CacheContent, facts: Facts) -> Iterator[Finding]:
    """Find a validation split that is empty or tiny."""
    captioned = content.captions > 0
    facts["images_with_captions"] = {
        name: int((captioned & (content.split == number)).sum()) for number, name in enumerate(SPLITS)
    }
    count = facts["images_with_captions"]["val"]
    if not captioned.any() or count >= TINY:
        return
    total = int(captioned.sum())
    message = f"the validation split has {plural(count, 'image')} with captions"
    yield Finding(
        check="tiny_validation" if count else "no_validation",
        count=count,
        total=total,
        message=message + (", so its loss is mostly chance" if count else ", so no checkpoint can be chosen by it"),
        cause="a small dataset, or a dataset whose own splits are not those of its images"
        if count
        else "a dataset with splits that have no validation images, or a `val_fraction` of 0",
        fix=content.command(
            "take the splits out of the dataset, so that one is drawn",
            val_fraction=f"{min(0.5, max(0.05, 2 * TINY / total)):.2g}",
        ),
    )


def check_leaks(content: CacheContent, facts: Facts) -> Iterator[Finding]:
    """Find images that are in two splits: with the same id, the same file, or exactly the same embedding."""
    pairs = sorted({*_same_names(content), *_across(content, content.equal_rows)})
    if not pairs:
        return
    held_out = len({row for pair in pairs for row in pair if content.split[row] != TRAIN})
    yield Finding(
        check="leak",
        count=len(pairs),
        total=int((content.split != TRAIN).sum()),
        message=f"{plural(len(pairs), 'pair')} of rows in two splits {'are' if len(pairs) > 1 else 'is'} the same "
        f"image; {plural(held_out, 'held-out image')} {'are' if held_out > 1 else 'is'} affected",
        cause="copies of an image under two names, or splits that were drawn by caption and not by image",
        fix=content.command("remove the copies from the dataset"),
        examples=first_examples([_pair(content, a, b) for a, b in pairs]),
    )


def check_near_duplicates(content: CacheContent, facts: Facts) -> Iterator[Finding]:
    """Find held-out images that are nearly the same as a training image, such as the same photo saved again.

    How near is suspicious depends on the encoder and the dataset. Where embeddings vary in k directions around an
    image, the distance r of its nearest neighbour has a probability that grows like r ** k. The power is taken from the
    nearer half of the distances, and tells the least distance that this many images would have.
    """
    train = np.flatnonzero(content.usable & (content.split == TRAIN))
    held_out = np.flatnonzero(content.usable & (content.split != TRAIN))
    if not len(held_out) or len(train) < 2:
        return
    chosen = _drawn(held_out, HELD_OUT)
    row, distance = _nearest(content, chosen, train)
    _, within = _nearest(content, _drawn(train, WITHIN), train)
    usual = np.concatenate([distance, within])
    usual = usual[usual > ROUNDING]
    expected = least_expected(usual) if len(usual) >= FEWEST else 0.0
    limit = max(ROUNDING, BELOW * expected)
    facts["nearest_training_image"] = {
        "held_out_images": len(chosen),
        "of": len(held_out),
        "nearest_pair": _pair(content, int(chosen[distance.argmin()]), int(row[distance.argmin()])),
        "least_distance": round(float(distance.min()), 4),
        "median_distance": round(float(np.median(distance)), 4),
        "near_duplicate_below": round(limit, 4),
    }
    exact = set(_across(content, content.equal_rows))
    near = [
        (float(d), int(a), int(b))
        for d, a, b in zip(distance, chosen, row, strict=True)
        if d < limit and (min(a, b), max(a, b)) not in exact
    ]
    if not near:
        return
    near.sort()
    yield Finding(
        check="near_duplicate",
        count=len(near),
        total=len(chosen),
        message=f"{len(near):,} of {plural(len(chosen), 'held-out image')} {'are' if len(near) > 1 else 'is'} nearly "
        f"the same as a training image (distance below {limit:.4f}, where the median is {np.median(distance):.4f})",
        cause="one photo that was saved twice, or two photos of one moment",
        fix=content.command("look at both images of each pair, and remove one if it is a copy"),
        examples=first_examples([f"{_pair(content, a, b)}, distance {d:.4f}" for d, a, b in near]),
    )


def least_expected(distances: NDArray[np.float32]) -> float:
    """Return the least of these distances that is to be expected, from their lower quartile and their median.

    With P(distance < r) proportional to r ** k, the quartiles tell k, and the least of n distances is where the
    probability is 1 / n. A tenth of duplicates among them about halves it.
    """
    quartile, median = np.quantile(distances, [0.25, 0.5])
    inverse_power = np.log(median / quartile) / np.log(2)
    return float(quartile * (4 / len(distances)) ** inverse_power)


def _nearest(
    content: CacheContent, queries: NDArray[np.int64], keys: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Find the nearest of the rows `keys` for each of the rows `queries`; a row is not its own neighbour.

    Returns:
        Its row, int64, and its distance, float32: 1 - cosine of what sets both apart from the mean image.
    """

    def vectors(rows: NDArray[np.int64]) -> Vectors:
        return Vectors(identity=rows, read=lambda first, last: content.directions(rows[first:last]))

    index, cosine = nearest(vectors(queries), vectors(keys))
    return keys[index], 1 - cosine


def _same_names(content: CacheContent) -> list[tuple[int, int]]:
    """Return the pairs of rows in different splits with the same id or the same path."""
    pairs = []
    for names in (content.id, content.path):
        first: dict[tuple[str, int], int] = {}
        for row, name in enumerate(names):
            own = int(content.split[row])
            others = [first[name, split] for split in range(len(SPLITS)) if split != own and (name, split) in first]
            pairs += [(min(other, row), max(other, row)) for other in others]
            first.setdefault((name, own), row)
    return pairs


def _across(content: CacheContent, pairs: list[tuple[int, int]]) -> list[tuple[int, int]]:
    return [(a, b) for a, b in pairs if content.split[a] != content.split[b]]


def _drawn(rows: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Return all of the rows, or `count` of them, drawn with a fixed seed."""
    if len(rows) <= count:
        return rows
    drawn: NDArray[np.int64] = np.sort(np.random.default_rng(0).choice(rows, count, replace=False))
    return drawn


def _pair(content: CacheContent, a: int, b: int) -> str:
    return f"{content.split_of(a)} {content.name(a)} and {content.split_of(b)} {content.name(b)}"
