"""The picture of a run's figures, and the other places that they can go to."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from clipcap.train.run.curves import draw_curves
from clipcap.train.run.trackers import TRACKERS


def pixels(file: Path) -> "np.ndarray[Any, Any]":
    with Image.open(file) as image:
        return np.asarray(image)


def coloured(file: Path, colour: tuple[int, int, int]) -> "np.ndarray[Any, Any]":
    """(y, x) of the pixels of a colour."""
    return np.argwhere((pixels(file) == colour).all(axis=-1))


def test_curves_go_where_the_figures_go(tmp_path: Path) -> None:
    falling = [{"step": step, "train_loss": 5 - step / 100, "lr": 1e-3} for step in range(0, 400, 10)]
    draw_curves(falling, tmp_path / "falling.png")
    curve = coloured(tmp_path / "falling.png", (46, 110, 180))
    curve = curve[curve[:, 0] > 40]  # below the label
    left, right = curve[curve[:, 1] < 200], curve[curve[:, 1] > 600]
    assert left[:, 0].mean() < 100  # downwards
    assert right[:, 0].mean() > 200
    both = [*falling, {"step": 399, "val_loss": 4.9, "image_gap": 0.3}]
    draw_curves(both, tmp_path / "both.png")
    assert pixels(tmp_path / "both.png").shape == (900, 760, 3)
    assert pixels(tmp_path / "falling.png").shape == (600, 760, 3)  # no panel of what there is not
    dot = coloured(tmp_path / "both.png", (200, 80, 40))
    assert dot[dot[:, 0] > 40][:, 0].mean() < 100  # a loss of 4.9 is near the top


@pytest.mark.parametrize("lines", [[], [{"step": 1, "train_loss": float("nan")}], [{"step": 1, "train_loss": 2.0}]])
def test_little_or_nothing_to_draw(tmp_path: Path, lines: list[dict[str, Any]]) -> None:
    draw_curves(lines, tmp_path / "c.png")
    assert pixels(tmp_path / "c.png").shape[1] == 760


class Recorder:
    """Stands for a service that is not here."""

    def __init__(self, folder: Path, recipe: dict[str, Any]) -> None:
        self.recipe, self.lines = recipe, list[tuple[int, dict[str, float]]]()
        RECORDERS.append(self)

    def log(self, figures: dict[str, float], step: int) -> None:
        self.lines.append((step, figures))


RECORDERS: list[Recorder] = []


def test_figures_go_to_a_tracker(
    tmp_path: Path, run: Any, small_cache: Path, lm_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(TRACKERS, "recorder", Recorder)
    options = [small_cache, "--lm", lm_folder, "--epochs", 1, "--batch-size", 9, "--device", "cpu"]
    result = run("train", *options, "-o", tmp_path / "run", "--log-to", "recorder")
    assert result.status == 0, result.err
    (recorder,) = RECORDERS
    assert recorder.recipe["batch_size"] == 9
    assert [(step, sorted(figures)) for step, figures in recorder.lines] == [
        (4, ["captions_per_second", "epoch", "lr", "train_loss"]),
        (4, ["epoch", "image_gap", "val_loss"]),
    ]


@pytest.mark.parametrize(("name", "fact"), [
    ("nothing", "--log-to nothing is not known; use tensorboard, wandb"),
    ("wandb", "--log-to wandb is not installed here; pip install wandb"),
])  # fmt: skip
def test_a_tracker_that_is_not_there(
    tmp_path: Path, run: Any, small_cache: Path, lm_folder: Path, name: str, fact: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    options = [small_cache, "--lm", lm_folder, "--epochs", 1, "--device", "cpu"]
    result = run("train", *options, "-o", tmp_path / "run", "--log-to", name)
    assert result.status == 2
    assert result.err.splitlines()[-1] == f"clipcap-train: {fact}"
