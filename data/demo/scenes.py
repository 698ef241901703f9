"""The content of a demo image: one group of shapes, or two with a relation between them, on a background.

There are about six million different scenes. A scene is determined by its seed and its number.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np

COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "white")
SHAPES = ("circle", "square", "triangle", "diamond", "star", "heart", "cross", "ring")
SIZES = ("small", "large")
MAX_COUNT = {"small": 4, "large": 3}  # most shapes in a group: as many as fit into half an image
RELATIONS = ("left of", "right of", "above", "below")
BACKGROUNDS = ("grass", "sand", "snow", "water", "night sky", "wood")

# Pairs of a colour and a shape that occur in no training image and no training caption; only `new_pairs` draws them.
HELD_OUT_PAIRS = frozenset(zip(COLOURS, SHAPES, strict=True))
TRAINED_PAIRS = tuple(pair for pair in product(COLOURS, SHAPES) if pair not in HELD_OUT_PAIRS)
SINGLE_GROUP_SHARE = 0.2  # share of the scenes that have one group only


@dataclass(frozen=True, slots=True)
class Group:
    """Equal shapes, such as three small blue stars."""

    count: int
    size: str
    colour: str
    shape: str


@dataclass(frozen=True, slots=True)
class Scene:
    """What an image shows: group `first` is `relation` group `second`. With one group, the last two are None."""

    background: str
    first: Group
    relation: str | None = None
    second: Group | None = None

    @property
    def groups(self) -> tuple[Group, ...]:
        """The one or two groups."""
        return (self.first,) if self.second is None else (self.first, self.second)


def generator(seed: int, number: int) -> np.random.Generator:
    """Return the random generator of scene `number`, independent of all other scenes."""
    return np.random.default_rng([seed, number])


def draw_scene(rng: np.random.Generator, *, new_pairs: bool = False) -> Scene:
    """Draw a random scene.

    Args:
        rng: makes the choices.
        new_pairs: give the first group a pair of `HELD_OUT_PAIRS`; otherwise no group has such a pair.
    """
    background = _pick(rng, BACKGROUNDS)
    first = _draw_group(rng, tuple(sorted(HELD_OUT_PAIRS)) if new_pairs else TRAINED_PAIRS)
    if rng.random() < SINGLE_GROUP_SHARE:
        return Scene(background, first)
    second = first
    while (second.colour, second.shape) == (first.colour, first.shape):
        second = _draw_group(rng, TRAINED_PAIRS)
    return Scene(background, first, _pick(rng, RELATIONS), second)


def scenes(seed: int, count: int, *, new_pairs: bool = False) -> Iterator[Scene]:
    """Yield scenes 0 to `count` - 1."""
    return (draw_scene(generator(seed, number), new_pairs=new_pairs) for number in range(count))


def _draw_group(rng: np.random.Generator, pairs: tuple[tuple[str, str], ...]) -> Group:
    colour, shape = pairs[rng.integers(len(pairs))]
    size = _pick(rng, SIZES)
    return Group(int(rng.integers(1, MAX_COUNT[size] + 1)), size, colour, shape)


def _pick(rng: np.random.Generator, choices: tuple[str, ...]) -> str:
    return choices[rng.integers(len(choices))]
