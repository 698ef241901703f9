"""Packed texts are a sequence of exactly the strings that were added."""

import pytest

from clipcap.data.texts import Texts

TEXTS = [
    "A dog runs.",
    "",
    "Zwölf Boxkämpfer",
    "犬が走る",
    "\N{DOG}",
    "\ud83d\udc36",
    "lone \udcff",
    "a\0b\n",
    "",
    "end",
]


def test_every_text_comes_back_as_it_was() -> None:
    texts = Texts(TEXTS)
    assert len(texts) == len(TEXTS)
    assert list(texts) == TEXTS
    assert [texts[number] for number in range(-len(TEXTS), len(TEXTS))] == TEXTS * 2
    assert list(texts.pick([3, 0, 3])) == [TEXTS[3], TEXTS[0], TEXTS[3]]


def test_texts_equal_any_sequence_of_the_same_strings() -> None:
    texts = Texts(TEXTS)
    assert texts == TEXTS
    assert texts == Texts(TEXTS)
    assert texts != TEXTS[:-1]
    assert texts != [*TEXTS[:-1], "other"]
    assert Texts("ab") != "ab"


@pytest.mark.parametrize("part", [slice(2, 5), slice(None, None, -2), slice(-3, None), slice(8, 2), slice(5, 100)])
def test_a_slice_is_that_of_a_list(part: slice) -> None:
    assert Texts(TEXTS)[part] == TEXTS[part]


@pytest.mark.parametrize("number", [len(TEXTS), -len(TEXTS) - 1])
def test_an_index_outside_is_an_index_error(number: int) -> None:
    with pytest.raises(IndexError):
        Texts(TEXTS)[number]


@pytest.mark.parametrize("count", range(len(TEXTS) + 1))
def test_texts_that_were_cut_off_are_gone_and_others_can_follow(count: int) -> None:
    texts = Texts(TEXTS)
    texts.truncate(count)
    assert list(texts) == TEXTS[:count]
    texts.append("new")
    assert list(texts) == [*TEXTS[:count], "new"]
