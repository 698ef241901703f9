"""The learning rate's way through a run."""

import re

import pytest

from clipcap.data.errors import UsageError
from clipcap.train.settings import TrainSettings, lr_factor


def test_a_linear_rise_then_linear_to_zero() -> None:
    assert [lr_factor(step, 4, 12) for step in range(12)] == [
        0.25, 0.5, 0.75, 1.0, 1.0, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125,
    ]  # fmt: skip
    assert [lr_factor(step, 0, 4) for step in range(4)] == [1.0, 0.75, 0.5, 0.25]
    assert [lr_factor(step, 2, 6, "constant") for step in range(6)] == [0.5, 1, 1, 1, 1, 1]
    half_wave = [lr_factor(step, 1, 5, "cosine") for step in range(5)]
    assert half_wave == pytest.approx([1, 1, (1 + 0.5**0.5) / 2, 0.5, (1 - 0.5**0.5) / 2])
    assert [lr_factor(step, 2, 2) for step in range(2)] == [0.5, 1.0]


def test_warm_up_scales_with_the_data() -> None:
    assert TrainSettings().warmup_steps(141_690) == 7084  # COCO, 10 epochs of 40
    assert TrainSettings().warmup_steps(760) == 38  # 3,060 captions: 5,000 fixed steps would never end
    assert TrainSettings(warmup=500).warmup_steps(760) == 500
    assert TrainSettings(warmup=5000).warmup_steps(760) == 760
    assert TrainSettings(warmup=0).warmup_steps(760) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tune": "last"}, "--tune last is not known; use all, none, first+last, last:N or from:N"),
        ({"schedule": "steps"}, "--schedule steps is not known; use linear, cosine, constant"),
        ({"subset": 0.0}, "--subset must be above 0 and at most 1, not 0.0"),
        ({"label_smoothing": 1.0}, "--label-smoothing must be from 0 to below 1, not 1.0"),
        ({"mapper_dropout": -0.1}, "--mapper-dropout must be from 0 to below 1, not -0.1"),
        ({"weight_decay": -1.0}, "--weight-decay must be a number of at least 0, not -1.0"),
        ({"lr": 0.0}, "--lr must be a number above 0"),
        ({"lr": float("nan")}, "--lr must be a number above 0"),
        ({"lr": float("inf")}, "--lr must be a number above 0, not inf"),
        ({"warmup": float("inf")}, "--warmup must be a number of at least 0, not inf"),
        ({"seed": -1}, "--seed must be from 0 to 4294967295, not -1"),
        ({"batch_size": 0}, "--batch-size must be at least 1, not 0"),
    ],
)
def test_errors(options: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=re.escape(message)):
        TrainSettings(**options)  # type: ignore[arg-type]
