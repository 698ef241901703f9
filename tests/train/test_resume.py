"""A run that was interrupted, killed or written by an older version resumes to the weights of an undisturbed run."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from runs import assert_same_run, assert_same_weights, files, interrupt_at_step, interrupt_in, metrics

from clipcap.train import loop
from clipcap.train.engine.distributed import World
from clipcap.train.loop import Trainer
from small_world import Crash, crash_at, make_coco, make_lm, small_models

Options = list[object]


@pytest.fixture
def options(small_cache: Path, lm_folder: Path) -> Options:
    # 33 captions, 4 steps an epoch, 8 in all
    return [
        *(small_cache, "--lm", lm_folder, "--epochs", 2, "--batch-size", 9, "--lr", 1e-2),
        *("--device", "cpu", "--precision", "fp32"),
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("step", "own"), [*((step, ()) for step in range(1, 9)), (3, ("--optimizer", "muon")), (5, ("--ema", 0.9))]
)
def test_resume_after_ctrl_c_at_any_step_continues_with_the_same_weights(
    tmp_path: Path, run: Any, options: Options, monkeypatch: pytest.MonkeyPatch, step: int, own: Options
) -> None:
    options = [*options, *own]
    assert run("train", *options, "-o", tmp_path / "undisturbed").status == 0
    with monkeypatch.context() as patch:
        interrupt_at_step(patch, step)
        result = run("train", *options, "-o", tmp_path / "run")
    assert result.status == 130
    assert result.err.splitlines()[-1] == "clipcap-train: interrupted"
    assert "--resume" in result.err
    saved = json.loads((tmp_path / "run/last/training_state.json").read_text())
    assert saved["step"] == step
    result = run("train", *options, "-o", tmp_path / "run", "--resume")
    assert result.status == 0, result.err
    assert f"after step {step} of 8" in result.err
    assert_same_run(tmp_path / "undisturbed", tmp_path / "run")


@pytest.mark.slow
def test_ctrl_c_in_a_validation_stops_there_and_resume_repeats_the_validation(
    tmp_path: Path, run: Any, options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run("train", *options, "-o", tmp_path / "undisturbed").status == 0
    with monkeypatch.context() as patch:
        interrupt_in(patch, loop, "validate")
        assert run("train", *options, "-o", tmp_path / "run").status == 130
    assert [line["step"] for line in metrics(tmp_path / "run")] == [4]
    assert not (tmp_path / "run/best").exists()
    assert run("train", *options, "-o", tmp_path / "run", "--resume").status == 0
    assert_same_run(tmp_path / "undisturbed", tmp_path / "run")


@pytest.mark.parametrize(("question", "step"), [(1, 1), (4, 4), (5, 4)])
def test_ctrl_c_that_arrives_while_the_processes_exchange_their_flags_is_not_lost(
    tmp_path: Path, run: Any, options: Options, monkeypatch: pytest.MonkeyPatch, question: int, step: int
) -> None:
    """The interrupt comes after this process gave its flag, so that answer is False; the next one must be True.

    Questions 1 to 4 come before the steps of the first epoch, question 5 after its validation.
    """
    asked = 0

    def any_rank(self: World, flag: bool, device: Any) -> bool:
        nonlocal asked
        asked += 1
        if asked == question:
            os.kill(os.getpid(), signal.SIGINT)
        return flag

    monkeypatch.setattr(World, "any_rank", any_rank)
    assert run("train", *options, "-o", tmp_path / "run").status == 130
    assert json.loads((tmp_path / "run/last/training_state.json").read_text())["step"] == step


@pytest.mark.slow
def test_resume_after_a_crash_at_any_change_of_the_disk_continues_with_the_same_weights(
    tmp_path: Path, run: Any, options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "SAVE_EVERY", 0.0)  # a checkpoint after every step
    assert run("train", *options, "-o", tmp_path / "undisturbed").status == 0
    crashes = 0
    for count in range(0, 1000, 7):
        with monkeypatch.context() as patch:
            crash_at(patch, count)
            try:
                run("train", *options, "-o", tmp_path / str(count))
                crashed = False
            except (Crash, AssertionError):
                crashed = True
        if not crashed:
            break
        crashes += 1
        result = run("train", *options, "-o", tmp_path / str(count), "--resume")
        assert result.status == 0, result.err
        assert_same_run(tmp_path / "undisturbed", tmp_path / str(count))
    assert crashes > 10


def test_resume_takes_the_settings_of_the_run_and_refuses_others(
    tmp_path: Path, run: Any, options: Options, small_cache: Path
) -> None:
    assert run("train", *options, "-o", tmp_path / "run").status == 0
    before = files(tmp_path / "run/last")
    result = run("train", small_cache, "-o", tmp_path / "run", "--resume", "--device", "cpu")
    assert result.status == 0
    assert "2 epochs" in result.err
    result = run("train", small_cache, "-o", tmp_path / "run", "--resume", "--lr", 5e-3)
    assert result.status == 2
    assert "--lr 0.01, not 0.005" in result.err
    assert files(tmp_path / "run/last") == before


def test_resume_of_an_empty_folder_starts_a_run(tmp_path: Path, run: Any, options: Options) -> None:
    result = run("train", *options, "-o", tmp_path / "run", "--resume")
    assert result.status == 0
    assert "starting from the beginning" in result.err


def test_resume_refuses_another_cache(
    tmp_path: Path, run: Any, options: Options, clip_folder: Path, tokenizer_folder: Path
) -> None:
    assert run("train", *options, "-o", tmp_path / "run").status == 0
    make_coco(tmp_path / "coco", train=4)
    models = small_models(clip_folder, tokenizer_folder)
    assert run("precompute", tmp_path / "coco", "-o", tmp_path / "c.h5", *models).status == 0
    result = run("train", tmp_path / "c.h5", "-o", tmp_path / "run", "--resume")
    assert result.status == 2
    assert f"{tmp_path}/c.h5" in result.err


def test_resume_refuses_a_language_model_that_changed(
    tmp_path: Path, run: Any, small_cache: Path, lm_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lm = make_lm(tmp_path / "lm", lm_folder)
    options = [small_cache, "--lm", lm, "--tune", "none", "-o", tmp_path / "run", "--device", "cpu", "--batch-size", 9]
    with monkeypatch.context() as patch:
        interrupt_in(patch, Trainer, "_step")
        assert run("train", *options).status == 130
    make_lm(lm, lm_folder, seed=8)
    result = run("train", *options, "--resume")
    assert result.status == 2
    assert str(lm) in result.err.splitlines()[-1]


def interrupted_run(run: Any, folder: Path, options: Options) -> None:
    """Stop a run in its first step."""
    with pytest.MonkeyPatch.context() as patch:
        interrupt_in(patch, Trainer, "_step")
        assert run("train", *options, "-o", folder).status == 130


def test_resume_continues_a_run_whose_files_state_no_version(tmp_path: Path, run: Any, options: Options) -> None:
    assert run("train", *options, "-o", tmp_path / "undisturbed").status == 0
    interrupted_run(run, tmp_path / "run", options)
    file = tmp_path / "run/last/training_state.json"
    state = json.loads(file.read_text())
    # The file as the first version of the program wrote it: these keys, in this order.
    names = ["step", "epoch", "batch", "best", "loss_sum", "loss_tokens", "stale", "parts", "loss_scale", "good"]
    assert set(state) == {"version", *names}
    assert (state["version"], state["step"], state["loss_scale"]) == (1, 1, 1.0)
    file.write_text(json.dumps({name: state[name] for name in names}))
    started = json.loads((tmp_path / "run/run.json").read_text())
    assert started.pop("version") == 1
    (tmp_path / "run/run.json").write_text(json.dumps(started))
    assert run("train", *options, "-o", tmp_path / "run", "--resume").status == 0
    assert_same_run(tmp_path / "undisturbed", tmp_path / "run")


@pytest.mark.parametrize("name", ["run.json", "last/training_state.json"])
def test_resume_refuses_a_file_of_an_unknown_version_by_name(
    tmp_path: Path, run: Any, options: Options, name: str
) -> None:
    interrupted_run(run, tmp_path / "run", options)
    content = json.loads((tmp_path / "run" / name).read_text())
    (tmp_path / "run" / name).write_text(json.dumps({**content, "version": 7}))
    result = run("train", *options, "-o", tmp_path / "run", "--resume")
    assert result.status == 2
    assert f"{tmp_path}/run/{name} has version 7" in result.err


def test_resume_refuses_a_run_that_was_made_with_other_steps(tmp_path: Path, run: Any, options: Options) -> None:
    assert run("train", *options, "-o", tmp_path / "run", "--epochs", 1).status == 0
    file = tmp_path / "run/run.json"
    content = json.loads(file.read_text())
    del content["settings"]["sampling"]
    file.write_text(json.dumps(content))
    result = run("train", *options, "-o", tmp_path / "run", "--resume")
    assert result.status == 2
    assert str(file) in result.err


@pytest.mark.parametrize("damage", ["key", "moment", "shape"])
def test_resume_refuses_a_damaged_training_state(tmp_path: Path, run: Any, options: Options, damage: str) -> None:
    from safetensors.torch import load_file, save_file

    interrupted_run(run, tmp_path / "run", options)
    last = tmp_path / "run/last"
    state, tensors = json.loads((last / "training_state.json").read_text()), None
    if damage == "key":
        del state["stale"]
    else:
        tensors = load_file(last / "training_state.safetensors")
        name = "exp_avg.clip_project.model.0.weight"
        changed = {} if damage == "moment" else {name: tensors[name][1:]}
        save_file(
            {**{other: tensors[other] for other in tensors if other != name}, **changed},
            last / "training_state.safetensors",
        )
    (last / "training_state.json").write_text(json.dumps(state))
    result = run("train", *options, "-o", tmp_path / "run", "--resume")
    assert result.status == 2
    assert str(last) in result.err.splitlines()[-1]


@pytest.mark.slow
def test_fp16_resumes_with_its_loss_scale(tmp_path: Path, run: Any, options: Options) -> None:
    options = [*options, "--precision", "fp16"]
    assert run("train", *options, "-o", tmp_path / "undisturbed").status == 0
    interrupted_run(run, tmp_path / "run", options)
    state = json.loads((tmp_path / "run/last/training_state.json").read_text())
    assert (state["loss_scale"], state["good"]) == (2.0**16, 1)
    assert run("train", *options, "-o", tmp_path / "run", "--resume").status == 0
    state = json.loads((tmp_path / "run/last/training_state.json").read_text())
    assert (state["loss_scale"], state["good"]) == (2.0**16, 8)
    assert_same_weights(tmp_path / "undisturbed/last", tmp_path / "run/last")
