"""Two processes train one model to the losses and weights of one process, and only the first one writes."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from clipcap.data.errors import UsageError
from clipcap.train.engine.distributed import join_world

Options = list[Any]


@pytest.fixture
def options(small_cache: Path, lm_folder: Path) -> Options:
    given = [small_cache, "--lm", lm_folder, "--batch-size", 8, "--lr", 1e-3, "--epochs", 2]
    return [*given, "--precision", "fp32", "--device", "cpu"]


def torchrun(*arguments: object) -> "subprocess.Popen[str]":
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "clipcap.train.cli"]
    return subprocess.Popen(
        [sys.executable, *command, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"},
    )


def metrics(folder: Path, name: str) -> list[float]:
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [line[name] for line in lines if name in line]


def assert_same_run(one: Path, other: Path) -> None:
    for name in ("train_loss", "val_loss", "image_gap"):
        assert metrics(one, name) == pytest.approx(metrics(other, name), rel=1e-4, abs=1e-5)
    for checkpoint in ("last", "best"):
        first, second = (load_file(folder / checkpoint / "model.safetensors") for folder in (one, other))
        for name, tensor in first.items():
            torch.testing.assert_close(tensor, second[name], rtol=0, atol=3e-5, msg=name)


@pytest.mark.slow
def test_two_processes_train_to_the_weights_of_one(tmp_path: Path, run: Any, options: Options) -> None:
    # Of 33 captions, the last batch has one, so one process has none.
    options += ["--dropout", 0.0, "--batch-size", 4, "--accumulate", 2, "--stream", "--metric", "rouge", "--ema", 0.9]
    assert run("train", *options, "-o", tmp_path / "one").status == 0
    process = torchrun(*options, "-o", tmp_path / "two")
    out, err = process.communicate()
    assert process.returncode == 0, err
    assert out == f"{tmp_path}/two/best\n"
    assert err.count("epoch 1: validation loss") == 1
    assert "2 processes" in err
    assert len(metrics(tmp_path / "two", "val_rouge")) == 2
    assert metrics(tmp_path / "two", "val_rouge") == pytest.approx(metrics(tmp_path / "one", "val_rouge"), abs=0.05)
    assert_same_run(tmp_path / "one", tmp_path / "two")


@pytest.mark.slow
def test_two_processes_resume_after_ctrl_c_with_the_same_weights(tmp_path: Path, options: Options) -> None:
    options = [*options, "--epochs", 20]
    undisturbed = torchrun(*options, "-o", tmp_path / "undisturbed")
    _, err = undisturbed.communicate()
    assert undisturbed.returncode == 0, err
    process = torchrun(*options, "-o", tmp_path / "run")
    while not (tmp_path / "run/metrics.jsonl").exists() and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate()
    assert process.returncode != 0
    assert "saved to" in err
    step = json.loads((tmp_path / "run/last/training_state.json").read_text())["step"]
    assert 0 < step < 20 * 5
    again = torchrun(*options, "-o", tmp_path / "run", "--resume")
    _, err = again.communicate()
    assert again.returncode == 0, err
    for checkpoint in ("last", "best"):
        first, second = (
            load_file(tmp_path / name / checkpoint / "model.safetensors") for name in ("undisturbed", "run")
        )
        assert all(torch.equal(first[name], second[name]) for name in first)


def test_each_process_uses_the_gpu_of_its_local_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    """The device has a number, which some functions of torch.cuda need."""
    taken: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    for name, number in (("cuda", 0), ("cuda:1", 1)):
        world, device = join_world(torch.device(name))
        assert (world.size, device, taken[-1]) == (1, torch.device("cuda", number), device)
    monkeypatch.setenv("WORLD_SIZE", "3")
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(UsageError, match=r"process 3 .* 2 GPUs"):
        join_world(torch.device("cuda"))
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(UsageError, match="torchrun"):
        join_world(torch.device("cpu"))
