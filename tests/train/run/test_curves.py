"""The image of a run's metrics."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from clipcap.train.run.curves import draw_curves


def pixels(file: Path) -> "np.ndarray[Any, Any]":
    with Image.open(file) as image:
        return np.asarray(image)


def coloured(file: Path, colour: tuple[int, int, int]) -> "np.ndarray[Any, Any]":
    """Return (y, x) of the pixels of a colour."""
    return np.argwhere((pixels(file) == colour).all(axis=-1))


def test_a_curve_falls_where_its_metric_falls(tmp_path: Path) -> None:
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
    assert pixels(tmp_path / "falling.png").shape == (600, 760, 3)  # a panel only for metrics that are there
    dot = coloured(tmp_path / "both.png", (200, 80, 40))
    assert dot[dot[:, 0] > 40][:, 0].mean() < 100  # a loss of 4.9 is near the top


@pytest.mark.parametrize("metric", ["bleu", "rouge", "cider"])
def test_the_score_of_a_metric_has_a_panel_of_its_own(tmp_path: Path, metric: str) -> None:
    rising = [{"step": step, f"val_{metric}": step / 100} for step in range(0, 400, 40)]
    draw_curves([{"step": 0, "train_loss": 3.0}, *rising, {"step": 400, "lr": 1e-3}], tmp_path / "c.png")
    assert pixels(tmp_path / "c.png").shape == (900, 760, 3)
    curve = coloured(tmp_path / "c.png", (180, 60, 120))
    curve = curve[curve[:, 0] > 340]  # below the label
    assert 300 <= curve[:, 0].min() < curve[:, 0].max() < 600  # the second panel
    assert curve[curve[:, 1] < 200][:, 0].mean() > 480  # upwards
    assert curve[curve[:, 1] > 550][:, 0].mean() < 420


@pytest.mark.parametrize("lines", [[], [{"step": 1, "train_loss": float("nan")}], [{"step": 1, "train_loss": 2.0}]])
def test_few_or_no_finite_values_are_drawn(tmp_path: Path, lines: list[dict[str, Any]]) -> None:
    draw_curves(lines, tmp_path / "c.png")
    assert pixels(tmp_path / "c.png").shape[1] == 760
