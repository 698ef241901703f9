"""Reads the folder of a training run for tests, and interrupts runs."""

import json
import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file


def weights(checkpoint: Path) -> dict[str, torch.Tensor]:
    """Return the weights of a checkpoint by name."""
    return load_file(checkpoint / "model.safetensors")


def metrics(folder: Path) -> list[dict[str, Any]]:
    """Return the lines of metrics.jsonl, without the speed."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        line.pop("captions_per_second", None)
    return lines


def assert_same_weights(one: Path, other: Path) -> None:
    """Assert that two checkpoints have the same weights, to the bit."""
    first, second = weights(one), weights(other)
    assert set(first) == set(second)
    assert all(torch.equal(first[name], second[name]) for name in first)


def assert_same_run(one: Path, other: Path) -> None:
    """Assert that two runs have the same metrics and, to the bit, the same weights."""
    for name in ("best", "last"):
        assert_same_weights(one / name, other / name)
    assert metrics(one) == metrics(other)


def files(folder: Path) -> dict[str, bytes]:
    """Return the content of every file in a folder, by its path inside."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
    }


def interrupt_at_step(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Send SIGINT, as Ctrl-C does, when a run begins a step, which is counted from 1."""
    from clipcap.train.loop import Trainer

    original = Trainer._step

    def interrupting(self: Trainer, captions: Any) -> Any:
        if self.state.step == step - 1:
            os.kill(os.getpid(), signal.SIGINT)
        return original(self, captions)

    monkeypatch.setattr(Trainer, "_step", interrupting)


def interrupt_in(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str) -> None:
    """Send SIGINT, as Ctrl-C does, when a function is called for the first time."""
    original = getattr(owner, name)
    sent = False

    def interrupting(*arguments: Any, **options: Any) -> Any:
        nonlocal sent
        if not sent:
            sent = True
            os.kill(os.getpid(), signal.SIGINT)
        return original(*arguments, **options)

    monkeypatch.setattr(owner, name, interrupting)


def score_threads() -> list[threading.Thread]:
    """Return the threads that score captions and do not end within a second."""
    found = [thread for thread in threading.enumerate() if thread.name == "score"]
    for thread in found:
        thread.join(1)
    return [thread for thread in found if thread.is_alive()]
