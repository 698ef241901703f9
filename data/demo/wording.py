"""Writes five captions of a scene in varied wording. The judge reads captions back with the same words."""

import numpy as np

from clipcap.data.demo.scenes import Group, Scene

COUNT_WORDS = {
    1: ("a", "one", "a single"),
    2: ("two", "a pair of"),
    3: ("three",),
    4: ("four",),
}
SIZE_WORDS = {"small": ("small", "little", "tiny"), "large": ("large", "big")}
COLOUR_WORDS = {
    "red": ("red",),
    "orange": ("orange",),
    "yellow": ("yellow",),
    "green": ("green",),
    "blue": ("blue",),
    "purple": ("purple", "violet"),
    "pink": ("pink",),
    "white": ("white",),
}
# Singular and plural.
SHAPE_WORDS = {
    "circle": (("circle", "circles"), ("disc", "discs")),
    "square": (("square", "squares"),),
    "triangle": (("triangle", "triangles"),),
    "diamond": (("diamond", "diamonds"),),
    "star": (("star", "stars"),),
    "heart": (("heart", "hearts"),),
    "cross": (("cross", "crosses"),),
    "ring": (("ring", "rings"),),
}
RELATION_WORDS = {
    "left of": ("to the left of", "left of"),
    "right of": ("to the right of", "right of"),
    "above": ("above", "over"),
    "below": ("below", "under"),
}
OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
BACKGROUND_WORDS = {
    "grass": ("on grass", "on the grass", "on a green lawn"),
    "sand": ("on sand", "on a sandy beach", "in the sand"),
    "snow": ("in the snow", "on snow", "in a snowy field"),
    "water": ("on the water", "in the sea", "on blue water"),
    "night sky": ("in the night sky", "in a starry sky", "against a dark sky"),
    "wood": ("on a wooden table", "on wood", "on wooden planks"),
}
CAPTIONS = 5


def write_captions(scene: Scene, rng: np.random.Generator) -> tuple[str, ...]:
    """Return five different true captions of a scene."""
    captions: dict[str, None] = {}  # a dict keeps their order and drops repetitions
    while len(captions) < CAPTIONS:
        captions[_write_caption(scene, rng)] = None
    return tuple(captions)


def _write_caption(scene: Scene, rng: np.random.Generator) -> str:
    where = _pick(rng, BACKGROUND_WORDS[scene.background])
    first = _describe(scene.first, rng)
    there = "There is" if first.startswith(("a ", "one ")) else "There are"
    if scene.second is None or scene.relation is None:
        forms: tuple[str, ...] = (f"{first} {where}.", f"{there} {first} {where}.", f"{where}, {first}.")
    else:
        second = _describe(scene.second, rng)
        relation = _pick(rng, RELATION_WORDS[scene.relation])
        opposite = _pick(rng, RELATION_WORDS[OPPOSITE[scene.relation]])
        forms = (
            f"{first} {relation} {second} {where}.",
            f"{second} {opposite} {first} {where}.",
            f"{there} {first} {relation} {second} {where}.",
            f"{where}, {first} {relation} {second}.",
        )
    text = _pick(rng, forms)
    return text[0].upper() + text[1:]


def _describe(group: Group, rng: np.random.Generator) -> str:
    count = _pick(rng, COUNT_WORDS[group.count])
    size = _pick(rng, SIZE_WORDS[group.size])
    colour = _pick(rng, COLOUR_WORDS[group.colour])
    singular, plural = SHAPE_WORDS[group.shape][rng.integers(len(SHAPE_WORDS[group.shape]))]
    return f"{count} {size} {colour} {singular if group.count == 1 else plural}"


def _pick(rng: np.random.Generator, choices: tuple[str, ...]) -> str:
    return choices[rng.integers(len(choices))]
