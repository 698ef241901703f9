"""Trackers get the metrics of a run; one that is unknown or not installed is an error before anything is written."""

import sys
from pathlib import Path
from typing import Any

import pytest

from clipcap.data.errors import ClipCapError
from clipcap.train.run.trackers import TRACKERS, TensorBoard, open_tracker

Options = list[object]


@pytest.fixture
def options(small_cache: Path, lm_folder: Path) -> Options:
    return [small_cache, "--lm", lm_folder, "--epochs", 1, "--batch-size", 9, "--device", "cpu"]


class Recorder:
    """Stands for a service, and keeps what it gets."""

    package = "json"  # a package that is there

    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
        self.settings, self.lines, self.closed = settings, list[tuple[int, dict[str, float]]](), False
        RECORDERS.append(self)

    def log(self, metrics: dict[str, float], step: int) -> None:
        self.lines.append((step, metrics))

    def close(self) -> None:
        self.closed = True


RECORDERS: list[Recorder] = []


def test_a_tracker_gets_the_settings_and_all_metrics_and_is_closed(
    tmp_path: Path, run: Any, options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(TRACKERS, "recorder", Recorder)
    result = run("train", *options, "-o", tmp_path / "run", "--log-to", "recorder")
    assert result.status == 0, result.err
    (recorder,) = RECORDERS
    assert recorder.settings["batch_size"] == 9
    assert [(step, sorted(metrics)) for step, metrics in recorder.lines] == [
        (4, ["captions_per_second", "epoch", "lr", "train_loss"]),
        (4, ["epoch", "image_gap", "val_loss"]),
    ]
    assert recorder.closed


@pytest.mark.parametrize("name", ["nothing", "wandb"])
def test_a_tracker_that_is_unknown_or_not_installed_is_refused_before_anything_is_written(
    tmp_path: Path, run: Any, options: Options, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    result = run("train", *options, "-o", tmp_path / "run", "--log-to", name)
    assert result.status == 2
    assert f"--log-to {name}" in result.err.splitlines()[-1]
    assert not (tmp_path / "run").exists()


def test_a_tracker_that_cannot_be_opened_is_an_error_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(folder: Path, settings: dict[str, Any]) -> None:
        raise RuntimeError("no account")

    refuse.package = "json"  # type: ignore[attr-defined]
    monkeypatch.setitem(TRACKERS, "service", refuse)
    with pytest.raises(ClipCapError, match="no account"):
        open_tracker("service", Path("run"), {})


def test_tensorboard_writes_event_files_into_the_folder_of_the_run(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    tracker = TensorBoard(tmp_path, {"lr": 0.1})
    tracker.log({"val_loss": 2.5}, 3)
    tracker.close()
    assert [path.name[:20] for path in tmp_path.rglob("*") if path.is_file()] == ["events.out.tfevents."]
    assert all(path.parent == tmp_path / "tensorboard" for path in tmp_path.rglob("*") if path.is_file())
