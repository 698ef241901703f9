"""Runs that choose the best checkpoint by a metric of captions: they end with the same files in every case."""

import json
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from runs import assert_same_run, assert_same_weights, interrupt_at_step, interrupt_in, metrics, score_threads

from clipcap.caption import Captioner
from clipcap.data.cache.index import Cache
from clipcap.data.metrics import METRICS, tokenize_all
from clipcap.train import loop, score, validate
from clipcap.train.corpus.captions import load_corpora
from clipcap.train.model.captioning import ClipCapModel
from clipcap.train.run.reporting import Reporter
from clipcap.train.run.trackers import TRACKERS, WeightsAndBiases
from clipcap.train.score import BackgroundScore
from small_world import Crash, crash_at, make_coco, small_models

Options = list[object]


@pytest.fixture
def options(small_cache: Path, lm_folder: Path) -> Options:
    # 33 captions, 4 steps an epoch
    return [
        *(small_cache, "--lm", lm_folder, "--epochs", 3, "--batch-size", 9, "--lr", 1e-2, "--metric", "cider"),
        *("--device", "cpu", "--precision", "fp32"),
    ]


def give_scores(monkeypatch: pytest.MonkeyPatch, *scores: float) -> None:
    """Let the first epochs of a run have these scores."""
    left = list(scores)
    monkeypatch.setattr(BackgroundScore, "_score_of", lambda self, model: left.pop(0))


def score_of_weights(self: BackgroundScore, model: ClipCapModel) -> float:
    """A score that changes with the last bit of the weights, and does not rise from epoch to epoch."""
    return float(1e6 * next(model.parameters()).double().sum()) % 1


def scores(folder: Path) -> list[tuple[int, int, float]]:
    """Return step, epoch and score of the lines that have one."""
    lines = metrics(folder)
    return [(line["step"], line["epoch"], line["val_cider"]) for line in lines if "val_cider" in line]


def progress(folder: Path) -> Any:
    return json.loads((folder / "config.json").read_text())["progress"]


def assert_same_files(one: Path, other: Path) -> None:
    """Assert that two runs have the same metrics, weights, progress and state of the loop."""
    assert_same_run(one, other)
    for name in ("best/config.json", "last/config.json", "last/training_state.json"):
        assert (one / name).read_text() == (other / name).read_text(), name


@pytest.mark.slow
def test_a_run_by_cider_trains_as_one_by_the_loss_and_scores_the_captions_of_its_checkpoints(
    tmp_path: Path, run: Any, options: Options, small_cache: Path
) -> None:
    options = [*options, "--epochs", 18]
    for metric in ("loss", "cider"):
        assert run("train", *options, "-o", tmp_path / metric, "--metric", metric).status == 0
    assert_same_weights(tmp_path / "loss/last", tmp_path / "cider/last")
    lines = metrics(tmp_path / "cider")
    assert [line for line in lines if "val_cider" not in line] == metrics(tmp_path / "loss")
    found = scores(tmp_path / "cider")
    assert [(step, epoch) for step, epoch, _ in found] == [(4 * epoch, epoch) for epoch in range(1, 19)]
    best = max(found, key=lambda line: line[2])  # the first of equal ones
    assert best[2] > 0.1
    assert best[1] < 18
    losses = {line["epoch"]: line["val_loss"] for line in lines if "val_loss" in line}
    lowest = min(loss for epoch, loss in losses.items() if epoch <= best[1])
    expected = {"step": best[0], "epoch": best[1], "best_val_loss": lowest}
    assert progress(tmp_path / "cider/best") == {**expected, "metric": "cider", "best_val_cider": best[2]}
    assert progress(tmp_path / "cider/last")["best_val_cider"] == best[2]
    corpus = load_corpora(Cache.open(small_cache), 60)["val"]
    captioner = Captioner.from_checkpoint(tmp_path / "cider/best", device="cpu", precision="fp32")
    captions = captioner(corpus.embedding[np.arange(5)].numpy())
    texts = [[text for text, at in zip(corpus.text, corpus.image, strict=True) if at == image] for image in range(5)]
    expected_score = METRICS["cider"]([tokenize_all(some) for some in texts])(tokenize_all(captions))["CIDEr"].corpus
    assert best[2] == pytest.approx(expected_score, rel=1e-6)


def test_the_epoch_with_the_highest_score_is_the_best_and_its_line_has_its_step(
    tmp_path: Path, run: Any, options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    give_scores(monkeypatch, 0.25, 0.5, 0.5)
    result = run("train", *options, "-o", tmp_path / "run")
    assert result.status == 0, result.err
    assert scores(tmp_path / "run") == [(4, 1, 0.25), (8, 2, 0.5), (12, 3, 0.5)]
    assert (progress(tmp_path / "run/best")["epoch"], progress(tmp_path / "run/last")["epoch"]) == (2, 3)
    assert "epoch 2: validation cider 0.5000, the best so far" in result.err
    assert "epoch 3: validation cider 0.5000\n" in result.err
    lines = metrics(tmp_path / "run")
    kinds = [next(name for name in ("train_loss", "val_loss", "val_cider") if name in line) for line in lines]
    assert kinds == [
        *("train_loss", "val_loss"),
        *("train_loss", "val_cider", "val_loss"),
        *("train_loss", "val_cider", "val_loss"),
        "val_cider",
    ]


def test_patience_counts_epochs_without_a_higher_score(
    tmp_path: Path, run: Any, options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    give_scores(monkeypatch, 0.5, 0.25, 0.25, 0.25)
    arguments = [*options, "-o", tmp_path / "run", "--epochs", 9, "--patience", 2]
    result = run("train", *arguments)
    assert result.status == 0, result.err
    # The score of epoch 3 decides after epoch 4, whose own score is made before the run ends.
    assert [epoch for _, epoch, _ in scores(tmp_path / "run")] == [1, 2, 3, 4]
    assert "validation cider was highest 3 epochs ago" in result.err
    assert progress(tmp_path / "run/best")["epoch"] == 1
    again = run("train", *arguments, "--resume")
    assert (again.status, "is finished: 4 epochs" in again.err) == (0, True)


def test_a_run_that_patience_would_end_goes_on_if_its_last_epoch_is_the_best(
    tmp_path: Path, run: Any, options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    give_scores(monkeypatch, 0.5, 0.25, 0.75, 0.25, 0.25)
    result = run("train", *options, "-o", tmp_path / "run", "--epochs", 9, "--patience", 1)
    assert result.status == 0, result.err
    assert [epoch for _, epoch, _ in scores(tmp_path / "run")] == [1, 2, 3, 4, 5]
    assert progress(tmp_path / "run/best")["epoch"] == 3


@pytest.mark.slow
@pytest.mark.parametrize("save_every", [0.0, 600.0])
def test_a_run_has_the_same_files_whether_the_thread_is_fast_or_slow(
    tmp_path: Path, run: Any, options: Options, monkeypatch: pytest.MonkeyPatch, save_every: float
) -> None:
    def slow(self: BackgroundScore, model: ClipCapModel) -> float:
        time.sleep(0.5)
        return score_of_weights(self, model)

    for name, function in (("fast", score_of_weights), ("slow", slow)):
        monkeypatch.setattr(BackgroundScore, "_score_of", function)
        if name == "slow":
            monkeypatch.setattr(loop, "SAVE_EVERY", save_every)
        assert run("train", *options, "-o", tmp_path / name).status == 0
    assert_same_files(tmp_path / "fast", tmp_path / "slow")


@pytest.mark.slow
@pytest.mark.parametrize(("save_every", "stride"), [(0.0, 23), (600.0, 11)])
def test_resume_after_a_crash_at_any_change_of_the_disk_ends_with_the_same_files(
    tmp_path: Path, run: Any, options: Options, monkeypatch: pytest.MonkeyPatch, save_every: float, stride: int
) -> None:
    monkeypatch.setattr(BackgroundScore, "_score_of", score_of_weights)
    monkeypatch.setattr(loop, "SAVE_EVERY", save_every)
    options = [*options, "--epochs", 3, "--batch-size", 20]
    assert run("train", *options, "-o", tmp_path / "undisturbed").status == 0
    assert progress(tmp_path / "undisturbed/best")["epoch"] < 3
    crashes = 0
    for count in range(1, 1000, stride):
        with monkeypatch.context() as patch:
            crash_at(patch, count)
            try:
                run("train", *options, "-o", tmp_path / str(count))
                break
            except (Crash, AssertionError):
                crashes += 1
        assert run("train", *options, "-o", tmp_path / str(count), "--resume").status == 0
        assert_same_files(tmp_path / "undisturbed", tmp_path / str(count))
    assert crashes > 4


@pytest.mark.slow
@pytest.mark.parametrize("step", [5, 12])
def test_resume_after_ctrl_c_at_any_step_ends_with_the_same_files(
    tmp_path: Path, run: Any, options: Options, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    monkeypatch.setattr(BackgroundScore, "_score_of", score_of_weights)
    assert run("train", *options, "-o", tmp_path / "undisturbed").status == 0
    with monkeypatch.context() as patch:
        interrupt_at_step(patch, step)
        assert run("train", *options, "-o", tmp_path / "run").status == 130
    assert json.loads((tmp_path / "run/last/training_state.json").read_text())["step"] == step
    assert run("train", *options, "-o", tmp_path / "run", "--resume").status == 0
    assert_same_files(tmp_path / "undisturbed", tmp_path / "run")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("owner", "name", "epochs"),
    [
        (loop, "validate", 2),
        (Reporter, "curves", 2),
        (Reporter, "curves", 1),
        (BackgroundScore, "wait", 1),
    ],
)
def test_resume_after_ctrl_c_around_a_score_ends_with_the_same_files(
    tmp_path: Path, run: Any, options: Options, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, epochs: int
) -> None:
    """With one epoch, the score is the last thing that is missing."""
    monkeypatch.setattr(BackgroundScore, "_score_of", score_of_weights)
    options = [*options, "--epochs", epochs]
    assert run("train", *options, "-o", tmp_path / "undisturbed").status == 0
    with monkeypatch.context() as patch:
        interrupt_in(patch, owner, name)
        assert run("train", *options, "-o", tmp_path / "run").status == 130
    assert run("train", *options, "-o", tmp_path / "run", "--resume").status == 0
    assert_same_files(tmp_path / "undisturbed", tmp_path / "run")


@pytest.mark.parametrize("epochs", [1, 2])
def test_ctrl_c_between_an_epoch_and_the_next_step_does_not_wait_for_the_score(
    tmp_path: Path, run: Any, options: Options, monkeypatch: pytest.MonkeyPatch, epochs: int
) -> None:
    """`last` holds all that is needed to score the epoch again."""

    def hold(self: BackgroundScore, model: ClipCapModel) -> float:
        assert self._cancelled.wait(20)
        raise score._CancelledError

    monkeypatch.setattr(BackgroundScore, "_score_of", hold)
    interrupt_in(monkeypatch, Reporter, "curves")  # right after the score was started
    result = run("train", *options, "-o", tmp_path / "run", "--epochs", epochs)
    assert result.status == 130
    assert json.loads((tmp_path / "run/last/training_state.json").read_text())["score_step"] == 4


def test_a_second_ctrl_c_stops_at_once_while_the_thread_works(
    tmp_path: Path, run: Any, options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = validate.greedy_captions

    def forever(*arguments: Any) -> Any:
        while True:
            original(*arguments)

    monkeypatch.setattr(score, "greedy_captions", forever)
    wait = BackgroundScore.wait

    def interrupted_wait(self: BackgroundScore, *arguments: Any) -> bool:
        threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
        return wait(self, *arguments)

    monkeypatch.setattr(BackgroundScore, "wait", interrupted_wait)
    interrupt_at_step(monkeypatch, 6)
    result = run("train", *options, "-o", tmp_path / "run")
    assert result.status == 130
    assert "Ctrl-C again stops at once" in result.err
    assert score_threads() == []
    assert json.loads((tmp_path / "run/last/training_state.json").read_text())["step"] == 4


def test_an_error_in_the_thread_ends_the_run_and_resume_scores_again(
    tmp_path: Path, run: Any, options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: BackgroundScore, model: ClipCapModel) -> float:
        raise ValueError("no such token")

    with monkeypatch.context() as patch:
        patch.setattr(BackgroundScore, "_score_of", fail)
        result = run("train", *options, "-o", tmp_path / "run")
    assert result.status == 2
    assert "ValueError: no such token" in result.err.splitlines()[-1]
    assert json.loads((tmp_path / "run/last/training_state.json").read_text())["step"] == 4
    give_scores(monkeypatch, 0.75, 0.5, 0.25)
    assert run("train", *options, "-o", tmp_path / "run", "--resume").status == 0
    assert scores(tmp_path / "run") == [(4, 1, 0.75), (8, 2, 0.5), (12, 3, 0.25)]


def test_resume_with_another_metric_is_refused_and_a_run_without_one_resumes_by_the_loss(
    tmp_path: Path, run: Any, options: Options
) -> None:
    loss = [*options, "--metric", "loss", "--epochs", 1]
    assert run("train", *loss, "-o", tmp_path / "run").status == 0
    file = tmp_path / "run/run.json"
    content = json.loads(file.read_text())
    del content["settings"]["metric"]  # as older versions wrote it
    file.write_text(json.dumps(content))
    assert run("train", *loss, "-o", tmp_path / "run", "--resume").status == 0
    result = run("train", *loss, "-o", tmp_path / "run", "--resume", "--metric", "bleu")
    assert result.status == 2
    assert "--metric loss, not bleu" in result.err


def test_a_metric_of_captions_without_a_validation_split_is_refused_before_anything_is_written(
    tmp_path: Path, run: Any, options: Options, clip_folder: Path, tokenizer_folder: Path
) -> None:
    coco = make_coco(tmp_path / "coco", train=4)
    (coco / "annotations/captions_val2017.json").unlink()
    models = small_models(clip_folder, tokenizer_folder)
    run("precompute", coco, "-o", tmp_path / "c.h5", *models, "--val-fraction", 0)
    result = run("train", tmp_path / "c.h5", *options[1:], "-o", tmp_path / "run")
    assert result.status == 2
    assert "--metric cider" in result.err.splitlines()[-1]
    assert not (tmp_path / "run").exists()


def test_a_single_validation_image_is_scored(
    tmp_path: Path, run: Any, options: Options, clip_folder: Path, tokenizer_folder: Path
) -> None:
    coco = make_coco(tmp_path / "coco", train=4, val=1)
    run("precompute", coco, "-o", tmp_path / "c.h5", *small_models(clip_folder, tokenizer_folder))
    result = run("train", tmp_path / "c.h5", *options[1:], "-o", tmp_path / "run", "--epochs", 1)
    assert result.status == 0, result.err
    assert scores(tmp_path / "run") == [(2, 1, 0.0)]  # CIDEr of one image is always 0
    assert progress(tmp_path / "run/best")["best_val_cider"] == 0
    state = json.loads((tmp_path / "run/last/training_state.json").read_text())
    assert (state["best_score"], state["score_step"]) == (0, None)


class Recorder:
    """Stands for wandb, which ignores a step that is before the newest one."""

    def __init__(self) -> None:
        self.lines: list[tuple[int, dict[str, float]]] = []

    def log(self, line: dict[str, float], step: int) -> None:
        assert not self.lines or step >= self.lines[-1][0]
        self.lines.append((step, line))

    def finish(self) -> None: ...


def test_wandb_gets_the_score_of_an_epoch_at_the_newest_step_with_its_own(
    tmp_path: Path, run: Any, options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = Recorder()

    class Fake(WeightsAndBiases):
        package = "json"

        def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
            self._run, self._newest = recorder, 0

    monkeypatch.setitem(TRACKERS, "fake", Fake)
    give_scores(monkeypatch, 0.25, 0.5)
    assert run("train", *options, "-o", tmp_path / "run", "--epochs", 2, "--log-to", "fake").status == 0
    found = [(step, line["val_cider"], line.get("score_step")) for step, line in recorder.lines if "val_cider" in line]
    assert found == [(8, 0.25, 4), (8, 0.5, None)]


def test_a_frozen_language_model_is_scored_too(tmp_path: Path, run: Any, options: Options) -> None:
    arguments = [*options, "--tune", "none", "--precision", "bf16", "--epochs", 1]
    result = run("train", *arguments, "-o", tmp_path / "run")
    assert result.status == 0, result.err
    assert len(scores(tmp_path / "run")) == 1
    assert_same_weights(tmp_path / "run/best", tmp_path / "run/last")
