"""What a demo picture shows: one group of shapes, or two with a relation between them, on a background.

About six million different scenes; the seed and the number of a scene decide everything about it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np

COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "white")
SHAPES = ("circle", "square", "triangle", "diamond", "star", "heart", "cross", "ring")
SIZES = ("small", "large")
MOST = {"small": 4, "large": 3}  # shapes in a group: as many as fit into half a picture
RELATIONS = ("left of", "right of", "above", "below")
BACKGROUNDS = ("grass", "sand", "snow", "water", "night sky", "wood")

# Colours with shapes that no picture of the training set and no caption holds; only `new_pairs` draws them.
HELD_OUT_PAIRS = frozenset(zip(COLOURS, SHAPES, strict=True))
TRAINED_PAIRS = tuple(pair for pair in product(COLOURS, SHAPES) if pair not in HELD_OUT_PAIRS)
ALONE = 0.2  # share of the scenes with one group


@dataclass(frozen=True, slots=True)
class Group:
    """Some equal shapes: three small blue stars."""

    count: int
    size: str
    colour: str
    shape: str


@dataclass(frozen=True, slots=True)
class Scene:
    """What is in a picture: `first` is `relation` `second`, both None where there is one group only."""

    background: str
    first: Group
    relation: str | None = None
    second: Group | None = None

    @property
    def groups(self) -> tuple[Group, ...]:
        """One group or two."""
        return (self.first,) if self.second is None else (self.first, self.second)


def generator(seed: int, number: int) -> np.random.Generator:
    """The source of all chance in scene `number` of a set: the same whatever was drawn before it."""
    return np.random.default_rng([seed, number])


def draw_scene(chance: np.random.Generator, *, new_pairs: bool = False) -> Scene:
    """A scene at random.

    Args:
        chance: where the choices come from.
        new_pairs: the first group has a colour and a shape of `HELD_OUT_PAIRS`; otherwise no group has.
    """
    background = _pick(chance, BACKGROUNDS)
    first = _draw_group(chance, tuple(sorted(HELD_OUT_PAIRS)) if new_pairs else TRAINED_PAIRS)
    if chance.random() < ALONE:
        return Scene(background, first)
    second = first
    while (second.colour, second.shape) == (first.colour, first.shape):
        second = _draw_group(chance, TRAINED_PAIRS)
    return Scene(background, first, _pick(chance, RELATIONS), second)


def scenes(seed: int, count: int, *, new_pairs: bool = False) -> Iterator[Scene]:
    """Scenes 0 to `count` of a set."""
    return (draw_scene(generator(seed, number), new_pairs=new_pairs) for number in range(count))


def _draw_group(chance: np.random.Generator, pairs: tuple[tuple[str, str], ...]) -> Group:
    colour, shape = pairs[chance.integers(len(pairs))]
    size = _pick(chance, SIZES)
    return Group(int(chance.integers(1, MOST[size] + 1)), size, colour, shape)


def _pick(chance: np.random.Generator, choices: tuple[str, ...]) -> str:
    return choices[chance.integers(len(choices))]
