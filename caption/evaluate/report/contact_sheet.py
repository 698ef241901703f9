"""The contact sheet: the best, the worst and some random images, with references and captions."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from clipcap.caption.evaluate.base import Evaluated
from clipcap.caption.evaluate.report.tables import label, times_100
from clipcap.caption.evaluate.report.thumbnails import Thumbnail, thumbnail

IMAGES = 12  # of each group at most, so that the page stays small however large the set is
REFERENCES = 5  # shown of an image
CAPTIONERS = 8  # whose captions are shown
LONGEST = 400  # letters of a caption

Indices = list[int]


@dataclass(frozen=True, kw_only=True)
class Line:
    """The caption of one captioner, with the figure of this image."""

    name: str
    caption: str
    figure: str


@dataclass(frozen=True, kw_only=True)
class Tile:
    """One image of the sheet.

    Attributes:
        name: its id.
        alt: the text that a screen reader speaks in place of the image: the first reference.
        image: None where the file was not found or is damaged.
        lines: the captions.
        references: the first ones.
        more: number of references that are not shown.
    """

    name: str
    alt: str
    image: Thumbnail | None
    lines: list[Line]
    references: list[str]
    more: int


@dataclass(frozen=True, kw_only=True)
class Sheet:
    """A group of images with its title, how they were chosen, and what the figure beside a caption is."""

    title: str
    choice: str
    metric: str
    tiles: list[Tile]


def contact_sheets(evaluated: Sequence[Evaluated], seed: int) -> list[Sheet]:
    """Choose the best, the worst and random images by the first captioner, and make their tiles.

    Args:
        evaluated: captioners of the same images.
        seed: of the random images.

    Returns:
        Groups that share no image. Those that would be empty are left out.
    """
    first = evaluated[0]
    metric = "CIDEr" if "CIDEr" in first.scores else next(iter(first.scores), None)
    best, worst, chance = choose([] if metric is None else first.scores[metric].images.tolist(), len(first.ids), seed)
    places = [{each: place for place, each in enumerate(one.ids)} for one in evaluated]
    by = f"by {label(metric)} of {first.name}" if metric else ""
    groups = (
        ("Best images", f"The highest {by}.", best),
        ("Worst images", f"The lowest {by}.", worst),
        ("Random images", f"Drawn from the others with seed {seed}.", chance),
    )
    return [
        Sheet(
            title=title,
            choice=choice,
            metric=label(metric or ""),
            tiles=[_tile(evaluated, places, metric, index) for index in indices],
        )
        for title, choice, indices in groups
        if indices
    ]


def choose(figures: Sequence[float], count: int, seed: int) -> tuple[Indices, Indices, Indices]:
    """Return the indices of the best, the worst (from the worst on) and random images, none of them twice.

    Args:
        figures: of the images; empty if there are none, and then all images are random.
        count: number of images.
        seed: of the random images.
    """
    size = min(IMAGES, max(1, count // 3))
    ranking = sorted(range(len(figures)), key=lambda index: -figures[index])
    best = ranking[:size]
    worst = ranking[size:][::-1][:size]
    rest = sorted(set(range(count)) - {*best, *worst})
    return best, worst, sorted(random.Random(seed).sample(rest, min(len(rest), size if figures else IMAGES)))


def _tile(evaluated: Sequence[Evaluated], places: Sequence[dict[str, int]], metric: str | None, index: int) -> Tile:
    first = evaluated[0]
    name, references = first.ids[index], first.references[index]
    lines = []
    for one, place in list(zip(evaluated, places, strict=True))[:CAPTIONERS]:
        if name in place:
            own = place[name]
            figure = times_100(float(one.scores[metric].images[own])) if metric in one.scores and metric else ""
            lines.append(Line(name=one.name, caption=_cut(one.captions[own]), figure=figure))
    return Tile(
        name=name,
        alt=_cut(references[0]) if references else name,
        image=thumbnail(first.images[index]),
        lines=lines,
        references=[_cut(text) for text in references[:REFERENCES]],
        more=max(0, len(references) - REFERENCES),
    )


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"
