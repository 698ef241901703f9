"""A run that is killed at random moments, also at its start, ends with the weights of an undisturbed run."""

import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest
from runs import assert_same_run

from small_world import spawn

pytestmark = pytest.mark.slow


def test_resume_after_sigkill_at_random_moments_ends_with_the_same_weights(
    tmp_path: Path, small_cache: Path, lm_folder: Path
) -> None:
    options = [small_cache, "--lm", lm_folder, "--epochs", 40, "--batch-size", 9, "--lr", 1e-3, "--device", "cpu"]
    options += ["--metric", "rouge"]
    begin = time.monotonic()
    undisturbed = spawn("train", *options, "-o", tmp_path / "undisturbed")
    _, err = undisturbed.communicate()
    assert undisturbed.returncode == 0, err
    whole = time.monotonic() - begin
    moments = random.Random(1)
    killed_after = []
    for attempt in range(5):
        process = spawn("train", *options, "-o", tmp_path / "run", "--resume")
        seconds = moments.uniform(0, 0.3) if attempt == 0 else moments.uniform(0.5, 0.9) * whole
        try:
            process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            os.kill(process.pid, signal.SIGKILL)
            process.communicate()
            killed_after.append(seconds)
    assert killed_after
    last = spawn("train", *options, "-o", tmp_path / "run", "--resume")
    _, err = last.communicate()
    assert last.returncode == 0, err
    assert_same_run(tmp_path / "undisturbed", tmp_path / "run")
