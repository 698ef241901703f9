"""Metrics equal the COCO toolkit's figures, and hold by hand and under permutation."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clipcap.data.errors import UsageError
from clipcap.data.metrics import METRICS, CiderReferences, Score, tokenize_all

CAPTIONS = ["a dog runs on grass", "two cats sleep on a red sofa", "a man rides a horse", "a dog"]
REFERENCES = [
    ["a dog runs on the green grass", "the dog runs", "a brown dog on grass"],
    ["two cats sleep on a red sofa", "cats on a sofa"],
    ["a man on a horse", "a rider and his horse in a field"],
    ["a cat sits", "a bird"],
]


def figures(captions: list[str], references: list[list[str]]) -> dict[str, Score]:
    """Compute every metric of the registry."""
    return {name: score for metric in METRICS.values() for name, score in metric(references)(captions).items()}


@pytest.fixture(scope="module")
def human(shared: Path) -> dict[str, Any]:
    """COCO val2017's first captions against the others, and what the toolkit made of them."""
    folder = shared / "data" / "annotations"
    results = json.loads((folder / "human_val2017_results.json").read_text())
    references = json.loads((folder / "human_val2017_references.json").read_text())
    expected = json.loads((folder / "human_val2017_expected.json").read_text())
    ids = [str(result["image_id"]) for result in results]
    return {
        "ids": ids,
        "captions": tokenize_all(result["caption"] for result in results),
        "references": [tokenize_all(references[name]) for name in ids],
        "expected": expected,
    }


@pytest.mark.slow
def test_figures_equal_those_of_the_toolkit_on_coco_val2017(human: dict[str, Any]) -> None:
    found = figures(human["captions"], human["references"])
    assert set(found) == {"Bleu_1", "Bleu_2", "Bleu_3", "Bleu_4", "ROUGE_L", "CIDEr"}
    for name, score in found.items():
        assert score.corpus == pytest.approx(human["expected"]["scores"][name], abs=1e-6), name
        assert score.images.shape == (5000,)


def test_bleu_by_hand() -> None:
    found = figures(["a dog runs"], [["a dog sits here now"]])
    penalty = math.exp(1 - 5 / 3)
    assert found["Bleu_1"].corpus == pytest.approx(2 / 3 * penalty, rel=1e-6)
    assert found["Bleu_2"].corpus == pytest.approx(math.sqrt(2 / 3 * 1 / 2) * penalty, rel=1e-6)
    assert found["Bleu_4"].corpus < 1e-3


def test_bleu_takes_the_shorter_of_two_references_equally_close() -> None:
    found = figures(["a b c"], [["a b c d", "a b"]])
    assert found["Bleu_1"].corpus == pytest.approx(1, rel=1e-6)


def test_rouge_by_hand() -> None:
    precision, recall = 3 / 4, 3 / 5
    expected = (1 + 1.44) * precision * recall / (recall + 1.44 * precision)
    assert figures(["a dog on grass"], [["a big dog lies grass"]])["ROUGE_L"].corpus == pytest.approx(expected)


def test_cider_by_hand() -> None:
    # Two images; every n-gram of the first image's only reference is in no other one, so that all weights are log 2.
    score = CiderReferences([["a b c"], ["x y"]]).score(["a b d", "x y"])
    damp = 10 / 4
    assert score[0] == pytest.approx(damp * (2 / 3 + 1 / 2))
    assert score[1] == pytest.approx(damp * 2)  # a caption of two tokens has no trigrams


def test_cider_scores_any_captions_against_cached_references() -> None:
    references = CiderReferences(REFERENCES)
    one = references.score(CAPTIONS)
    many = references.score([*CAPTIONS[::-1], "", "unknown words only"], [3, 2, 1, 0, 0, 1])
    np.testing.assert_allclose(many, [*one[::-1], 0, 0])
    assert references.score([], []).shape == (0,)


def test_the_order_of_images_and_references_changes_nothing() -> None:
    order = [2, 0, 3, 1]
    one = figures(CAPTIONS, REFERENCES)
    other = figures([CAPTIONS[i] for i in order], [REFERENCES[i][::-1] for i in order])
    for name, score in one.items():
        assert other[name].corpus == pytest.approx(score.corpus, rel=1e-12)
        np.testing.assert_allclose(other[name].images, score.images[order], rtol=1e-12)


def test_a_caption_equal_to_its_only_reference_scores_highest() -> None:
    texts = ["a dog runs on grass", "two cats sleep on a sofa", "a man rides a horse"]
    for name, score in figures(texts, [[text] for text in texts]).items():
        highest = 10 if name == "CIDEr" else 1
        np.testing.assert_allclose(score.images, highest, rtol=1e-6)
        assert score.corpus == pytest.approx(highest, rel=1e-6)


@pytest.mark.parametrize("name", METRICS)
def test_wrong_numbers_of_captions_are_an_error(name: str) -> None:
    with pytest.raises(UsageError, match="1"):
        METRICS[name]([["a dog"]])(["a dog"] * 2)
    with pytest.raises(UsageError, match="1"):
        METRICS[name]([["a dog"]])([])
    with pytest.raises(UsageError):
        METRICS[name]([])
    with pytest.raises(UsageError, match="1"):
        METRICS[name]([[]])


def test_an_image_that_is_not_among_the_references_is_an_error() -> None:
    with pytest.raises(UsageError, match="7"):
        CiderReferences(REFERENCES).score(["a dog"], [7])
