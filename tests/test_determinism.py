"""The same command twice, on the same machine with the same seed, makes the same files, byte for byte, on a CPU."""

import json
from pathlib import Path
from typing import Any

import pytest
from runs import assert_same_run, files

from small_world import small_models

pytestmark = pytest.mark.slow


def test_stage_1_twice_makes_the_same_bytes(
    coco: Path, clip_folder: Path, tokenizer_folder: Path, tmp_path: Path, run: Any
) -> None:
    for name, workers in [("one", 0), ("two", 3)]:
        (tmp_path / name).mkdir()
        options = [*small_models(clip_folder, tokenizer_folder), "--shard-size", 10, "--workers", workers]
        assert run("precompute", coco, "-o", tmp_path / name / "cache.h5", *options).status == 0
    one, two = files(tmp_path / "one"), files(tmp_path / "two")
    assert set(one) >= {"cache.h5", "cache-00000.h5", "cache-00001.h5"}
    assert one == two


def test_stage_2_twice_makes_the_same_bytes(small_cache: Path, lm_folder: Path, tmp_path: Path, run: Any) -> None:
    for name in ("one", "two"):
        options = ["--lm", lm_folder, "--epochs", 2, "--batch-size", 9, "--precision", "fp32", "--device", "cpu"]
        assert run("train", small_cache, "-o", tmp_path / name, *options).status == 0
    assert_same_run(tmp_path / "one", tmp_path / "two")
    one, two = files(tmp_path / "one"), files(tmp_path / "two")
    assert set(one) == set(two)
    assert "best/model.safetensors" in one
    # Both have times in them; `assert_same_run` has compared the rest of metrics.jsonl.
    times = {"metrics.jsonl", "train.log"}
    assert {name for name in one if one[name] != two[name]} <= times
    assert json.loads(one["run.json"])["settings"]["seed"] == 0
