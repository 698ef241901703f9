"""The judge accepts true captions in every wording, and finds the one attribute that a caption has wrong."""

from dataclasses import replace

import pytest

from clipcap.data.demo.judge import ATTRIBUTES, judge, read_caption
from clipcap.data.demo.scenes import (
    BACKGROUNDS,
    COLOURS,
    MAX_COUNT,
    RELATIONS,
    SHAPES,
    SIZES,
    Group,
    Scene,
    draw_scene,
    generator,
)
from clipcap.data.demo.wording import OPPOSITE, write_captions

STARS = Group(3, "small", "blue", "star")
SCENE = Scene("sand", STARS, "left of", Group(1, "large", "red", "heart"))


def other(choices: tuple[str, ...], value: str) -> str:
    return choices[(choices.index(value) + 1) % len(choices)]


def wrong_in_one(scene: Scene) -> dict[str, Scene]:
    """The scene with one attribute changed, by the name of that attribute."""
    group = scene.first
    changed = {
        "count": replace(group, count=group.count % MAX_COUNT[group.size] + 1),
        "size": replace(group, size=other(SIZES, group.size)),
        "colour": replace(group, colour=other(COLOURS, group.colour)),
        "shape": replace(group, shape=other(SHAPES, group.shape)),
    }
    scenes = {name: replace(scene, first=first) for name, first in changed.items()}
    scenes["background"] = replace(scene, background=other(BACKGROUNDS, scene.background))
    if scene.relation is not None:
        scenes["relation"] = replace(scene, relation=other(RELATIONS, scene.relation))
    return scenes


@pytest.mark.parametrize("new_pairs", [False, True])
def test_true_captions_are_right_in_every_wording(new_pairs: bool) -> None:
    for number in range(400):
        rng = generator(3, number)
        scene = draw_scene(rng, new_pairs=new_pairs)
        for caption in write_captions(scene, rng):
            assert judge(caption, scene) == dict.fromkeys(ATTRIBUTES, True), (caption, scene)


def test_a_caption_with_one_wrong_attribute_is_wrong_in_that_attribute_only() -> None:
    seen = set()
    for number in range(300):
        rng = generator(4, number)
        scene = draw_scene(rng)
        for name, false in wrong_in_one(scene).items():
            for caption in write_captions(false, rng):
                wrong = [key for key, right in judge(caption, scene).items() if not right]
                assert len(wrong) == 1, (caption, scene)
                # If the groups differ in one attribute only, a wrong relation also reads as that attribute exchanged.
                if name != "relation" or differences(*scene.groups) > 1:
                    assert wrong == [name], (caption, scene)
                    seen.add(name)
    assert seen == set(ATTRIBUTES)


def differences(first: Group, second: Group) -> int:
    return sum(getattr(first, name) != getattr(second, name) for name in ("count", "size", "colour", "shape"))


def test_a_caption_may_begin_with_either_group() -> None:
    caption = "A large red heart right of three small blue stars on sand."
    assert all(judge(caption, SCENE).values())
    assert OPPOSITE[OPPOSITE["above"]] == "above"
    assert judge(caption.replace("right", "left"), SCENE)["relation"] is False


@pytest.mark.parametrize(
    "caption",
    [
        "",
        "Three small blue stars.",  # no background
        "Three small blue star on sand.",
        "A small blue stars on sand.",
        "Three blue stars on sand.",
        "Three small blue stars on sand",  # no full stop
        "Three small blue stars on sand on sand.",
        "On sand, three small blue stars on sand.",
        "Three small blue stars left of on sand.",
        "Three small blue stars a large red heart on sand.",
        "Stars, stars, stars.",
    ],
)
def test_a_text_that_is_not_a_caption_is_wrong_in_every_attribute(caption: str) -> None:
    assert judge(caption, Scene("sand", STARS)) == dict.fromkeys(ATTRIBUTES, False)


def test_a_missing_group_makes_the_attributes_of_groups_wrong() -> None:
    right = judge("Three small blue stars on sand.", SCENE)
    assert right == {**dict.fromkeys(ATTRIBUTES, False), "background": True}


def test_a_caption_is_read_back_into_its_scene() -> None:
    caption = "In the snow, a pair of tiny violet discs under one big white cross."
    assert read_caption(caption) == Scene(
        "snow", Group(2, "small", "purple", "circle"), "below", Group(1, "large", "white", "cross")
    )
