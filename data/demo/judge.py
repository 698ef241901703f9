"""The judge of demo captions: what a caption says, in any of the wordings, compared with what is in the scene.

Right means that every attribute is right. The picture is never looked at.
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
    """Which attributes of a scene a caption has right.

    Args:
        caption: any text.
        scene: what is in the picture.

    Returns:
        A value for each of `ATTRIBUTES`, right only where it is so for every group; all False for a text that is no
        sentence of the wordings.
    """
    said = read_caption(caption)
    if said is None:
        return dict.fromkeys(ATTRIBUTES, False)
    # "A left of B" and "B right of A" are the same: the reading that fits better counts.
    readings = [_compare(reading, scene) for reading in (said, _turned(said))]
    return max(readings, key=lambda right: sum(right.values()))


def read_caption(caption: str) -> Scene | None:
    """The scene that a caption describes; None for a text that is no sentence of the wordings."""
    sentence = _SENTENCE.fullmatch(caption.strip().lower())
    if sentence is None:
        return None
    part = sentence.groupdict()
    if (part["begin"] is None) == (part["end"] is None):  # the background, once
        return None
    background = _BACKGROUND[part["begin"] or part["end"]]
    first = _read_group(part["first"])
    if first is None or part["second"] is None:
        return None if first is None else Scene(background, first)
    second = _read_group(part["second"])
    return None if second is None else Scene(background, first, _RELATION[part["relation"]], second)


def _read_group(text: str) -> Group | None:
    """A group from its words; None where number and count disagree, as in `two star`."""
    words = _GROUP.fullmatch(text)
    assert words is not None, text
    count = _COUNT[words["count"]]
    shape, plural = _SHAPE[words["shape"]]
    if plural != (count > 1):
        return None
    return Group(count, _SIZE[words["size"]], _COLOUR[words["colour"]], shape)


def _turned(scene: Scene) -> Scene:
    """The same scene, told from the second group."""
    if scene.second is None or scene.relation is None:
        return scene
    return Scene(scene.background, scene.second, OPPOSITE[scene.relation], scene.first)


def _compare(said: Scene, scene: Scene) -> dict[str, bool]:
    right = {
        name: [getattr(group, name) for group in said.groups] == [getattr(group, name) for group in scene.groups]
        for name in ("count", "size", "colour", "shape")
    }
    return {**right, "relation": said.relation == scene.relation, "background": said.background == scene.background}


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
