"""Bootstrap intervals cover what they should, and depend on nothing but the images and the seed."""

import numpy as np
import pytest

from clipcap.data.metrics import METRICS, mean_score
from clipcap.data.metrics.bootstrap import difference_interval, interval

CAPTIONS = ["a dog runs on grass", "two cats sleep", "a man rides a horse", "a dog"] * 25
REFERENCES = [["a dog runs on the grass"], ["two cats sleep on a sofa"], ["a man on a horse"], ["a bird"]] * 25


def test_the_interval_of_a_mean_is_that_of_the_normal_distribution() -> None:
    values = np.random.default_rng(1).normal(3, 2, size=4000)
    low, high = interval(mean_score(values), draws=4000)
    error = values.std() / np.sqrt(len(values))
    assert low == pytest.approx(values.mean() - 1.96 * error, abs=0.1 * error)
    assert high == pytest.approx(values.mean() + 1.96 * error, abs=0.1 * error)


def test_the_interval_of_bleu_is_that_of_the_whole_set_computed_anew() -> None:
    score = METRICS["bleu"](REFERENCES)(CAPTIONS)["Bleu_4"]
    random, figures = np.random.default_rng(0), []
    for _ in range(50):
        rows = random.integers(100, size=100)
        drawn = METRICS["bleu"]([REFERENCES[row] for row in rows])([CAPTIONS[row] for row in rows])
        figures.append(drawn["Bleu_4"].corpus)
    assert interval(score, draws=50) == pytest.approx(np.percentile(figures, [2.5, 97.5]).tolist(), rel=1e-9)


def test_a_constant_lead_has_an_interval_without_width() -> None:
    values = np.random.default_rng(2).normal(size=200)
    found = difference_interval(mean_score(values + 0.5), mean_score(values))
    assert found == pytest.approx((0.5, 0.5))


def test_a_captioner_against_itself_is_no_difference() -> None:
    score = METRICS["cider"](REFERENCES)(CAPTIONS)["CIDEr"]
    assert difference_interval(score, score) == (0, 0)


def test_the_seed_decides_the_draws() -> None:
    score = mean_score(np.random.default_rng(3).normal(size=50))
    assert interval(score, seed=1) == interval(score, seed=1) != interval(score, seed=2)
