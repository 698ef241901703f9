"""Judges demo captions: reads a caption back into a scene and compares it with the true scene.

The judge sees no image. A caption is right if all of its attributes are right.
"""

import re
from collections.abc import Iterable

from clipcap.data.demo.scenes import Group, Scene
from clipcap.data.demo.wording import (
    BACKGROUND_WORDS,
    COLOUR_WORDS,
    COUNT_WORDS,
    OPPOSITE,
    RELATION_WORDS,
    SHAPE_WORDS,
    SIZE_WORDS,
)

ATTRIBUTES = ("count", "size", "colour", "shape", "relation", "background")


def judge(caption: str, scene: Scene) -> dict[str, bool]:
    """Say which attributes of a scene a caption has right.

    Args:
        caption: any text.
        scene: what the image shows.

    Returns:
        For each of `ATTRIBUTES`, whether it is right in every group. All are False if the text does not have the form
        of a caption.
    """
    described = read_caption(caption)
    if described is None:
        return dict.fromkeys(ATTRIBUTES, False)
    # "A left of B" and "B right of A" mean the same, so the reading that fits better counts.
    readings = [_compare(reading, scene) for reading in (described, _swapped(described))]
    return max(readings, key=lambda right: sum(right.values()))


def read_caption(caption: str) -> Scene | None:
    """Return the scene that a caption describes, or None if the text does not have the form of a caption."""
    sentence = _SENTENCE.fullmatch(caption.strip().lower())
    if sentence is None:
        return None
    part = sentence.groupdict()
    if (part["begin"] is None) == (part["end"] is None):  # the background must be named exactly once
        return None
    background = _BACKGROUND[part["begin"] or part["end"]]
    first = _read_group(part["first"])
    if first is None or part["second"] is None:
        return None if first is None else Scene(background, first)
    second = _read_group(part["second"])
    return None if second is None else Scene(background, first, _RELATION[part["relation"]], second)


def _read_group(text: str) -> Group | None:
    """Return the group that the text describes, or None if count and number disagree, as in `two star`."""
    words = _GROUP.fullmatch(text)
    assert words is not None, text
    count = _COUNT[words["count"]]
    shape, plural = _SHAPE[words["shape"]]
    if plural != (count > 1):
        return None
    return Group(count, _SIZE[words["size"]], _COLOUR[words["colour"]], shape)


def _swapped(scene: Scene) -> Scene:
    """Return the same scene, described from its second group."""
    if scene.second is None or scene.relation is None:
        return scene
    return Scene(scene.background, scene.second, OPPOSITE[scene.relation], scene.first)


def _compare(described: Scene, scene: Scene) -> dict[str, bool]:
    right = {
        name: [getattr(group, name) for group in described.groups] == [getattr(group, name) for group in scene.groups]
        for name in ("count", "size", "colour", "shape")
    }
    return {
        **right,
        "relation": described.relation == scene.relation,
        "background": described.background == scene.background,
    }


_COUNT = {word: count for count, words in COUNT_WORDS.items() for word in words}
_SIZE = {word: size for size, words in SIZE_WORDS.items() for word in words}
_COLOUR = {word: colour for colour, words in COLOUR_WORDS.items() for word in words}
_SHAPE = {
    word: (shape, n == 1) for shape, names in SHAPE_WORDS.items() for name in names for n, word in enumerate(name)
}
_RELATION = {word: relation for relation, words in RELATION_WORDS.items() for word in words}
_BACKGROUND = {word: background for background, words in BACKGROUND_WORDS.items() for word in words}


def _any_of(name: str, words: Iterable[str]) -> str:
    return f"(?P<{name}>{'|'.join(sorted(words, key=len, reverse=True))})"


_GROUP_PATTERN = " ".join(
    [_any_of("count", _COUNT), _any_of("size", _SIZE), _any_of("colour", _COLOUR), _any_of("shape", _SHAPE)]
)
_GROUP = re.compile(_GROUP_PATTERN)
_BARE_GROUP = re.sub(r"\?P<\w+>", "?:", _GROUP_PATTERN)
_SENTENCE = re.compile(
    f"(?:{_any_of('begin', _BACKGROUND)}, |there (?:is|are) )?"
    f"(?P<first>{_BARE_GROUP})(?: {_any_of('relation', _RELATION)} (?P<second>{_BARE_GROUP}))?"
    f"(?: {_any_of('end', _BACKGROUND)})?\\."
)
