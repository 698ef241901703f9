"""Demo scenes cover every choice evenly, and held-out pairs occur only on request."""

from collections import Counter

from clipcap.data.demo.scenes import (
    BACKGROUNDS,
    COLOURS,
    HELD_OUT_PAIRS,
    RELATIONS,
    SHAPES,
    SINGLE_GROUP_SHARE,
    draw_scene,
    generator,
    scenes,
)

MANY = list(scenes(21, 6000))


def pairs(groups: object) -> set[tuple[str, str]]:
    return {(group.colour, group.shape) for group in groups}  # type: ignore[attr-defined]


def test_a_scene_depends_on_seed_and_number_alone() -> None:
    assert draw_scene(generator(21, 17)) == MANY[17]
    assert draw_scene(generator(22, 17)) != MANY[17]
    assert list(scenes(21, 20)) == MANY[:20]


def test_every_choice_is_about_equally_frequent() -> None:
    for name, choices in (("background", BACKGROUNDS), ("relation", RELATIONS)):
        counts = Counter(getattr(scene, name) for scene in MANY)
        shares = [counts[choice] / len(MANY) for choice in choices]
        assert max(shares) < 1.2 * min(shares), (name, shares)
    alone = sum(scene.second is None for scene in MANY) / len(MANY)
    assert abs(alone - SINGLE_GROUP_SHARE) < 0.02
    counts = Counter((group.size, group.count) for scene in MANY for group in scene.groups)
    assert set(counts) == {("small", n) for n in (1, 2, 3, 4)} | {("large", n) for n in (1, 2, 3)}


def test_held_out_pairs_are_drawn_only_on_request() -> None:
    trained = set().union(*(pairs(scene.groups) for scene in MANY))
    assert trained == {(colour, shape) for colour in COLOURS for shape in SHAPES} - HELD_OUT_PAIRS
    new = list(scenes(21, 500, new_pairs=True))
    assert set().union(*(pairs([scene.first]) for scene in new)) == HELD_OUT_PAIRS
    assert all(pairs([scene.second]).isdisjoint(HELD_OUT_PAIRS) for scene in new if scene.second is not None)
    # Every colour and every shape has one held-out pair, and so is known from the other pairs.
    assert len(HELD_OUT_PAIRS) == len(COLOURS) == len(SHAPES)


def test_the_two_groups_of_a_scene_differ_in_colour_or_shape() -> None:
    for scene in MANY:
        assert len(pairs(scene.groups)) == len(scene.groups)


def test_no_scene_is_frequent() -> None:
    assert Counter(MANY).most_common(1)[0][1] < 0.002 * len(MANY)
