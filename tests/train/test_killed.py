"""A run that is killed at random moments, also at its start, ends with the weights of an undisturbed run."""

import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from runs import assert_same_run

from small_world import spawn

pytestmark = pytest.mark.slow


def size(file: Path) -> int:
    """Return the size of a file in bytes, 0 where there is none."""
    return file.stat().st_size if file.exists() else 0


def test_resume_after_sigkill_at_random_moments_ends_with_the_same_weights(
    tmp_path: Path, run: Any, small_cache: Path, lm_folder: Path
) -> None:
    options = [small_cache, "--lm", lm_folder, "--epochs", 24, "--batch-size", 9, "--lr", 1e-3, "--device", "cpu"]
    options += ["--metric", "rouge"]
    assert run("train", *options, "-o", tmp_path / "undisturbed").status == 0
    metrics = tmp_path / "run/metrics.jsonl"
    moments = random.Random(1)
    kills = 0
    for attempt in range(4):
        before = size(metrics)
        process = spawn("train", *options, "-o", tmp_path / "run", "--resume")
        if attempt > 0:  # the first kill is during the start, the others during the epochs
            while process.poll() is None and size(metrics) <= before:
                time.sleep(0.005)
        time.sleep(moments.uniform(0, 0.3 if attempt == 0 else 0.6))
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
            kills += 1
        process.communicate()
    assert kills >= 1
    last = run("train", *options, "-o", tmp_path / "run", "--resume")
    assert last.status == 0, last.err
    assert_same_run(tmp_path / "undisturbed", tmp_path / "run")
