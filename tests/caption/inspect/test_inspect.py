"""`clipcap-inspect`: what a cache or a checkpoint is, and whether it is whole."""

import json
import shutil
from pathlib import Path
from typing import Any

import h5py


def test_a_cache(run: Any, small_cache: Path) -> None:
    result = run("inspect", small_cache)
    assert result.status == 0
    assert result.out.startswith("kind: cache, format 1\nimages: 17\ncaptions: 48\n")
    assert "verified: no\n" in result.out
    assert "splits:\n  train: 12\n  val: 5\n" in result.out
    facts = json.loads(run("inspect", small_cache, "--json").out)
    assert facts["shards"] == 2
    assert facts["splits"] == {"train": 12, "val": 5}
    assert facts["fingerprint"]["width"] == 16
    assert facts["failures"] == []
    assert facts["verified"] is False


def test_verify(tmp_path: Path, run: Any, small_cache: Path) -> None:
    for path in small_cache.parent.glob("*.h5"):
        shutil.copy(path, tmp_path)
    result = run("inspect", tmp_path / "cache.h5", "--verify")
    assert result.status == 0
    assert "2 shards verified: every sum is right" in result.err
    with h5py.File(tmp_path / "cache-00001.h5", "r+") as file:
        file["captions/text"][0] = "something else"
    assert run("inspect", tmp_path / "cache.h5").status == 0
    result = run("inspect", tmp_path / "cache.h5", "--verify")
    assert result.status == 2
    assert "cache-00001.h5 is damaged: its tables have the sum" in result.err


def test_a_checkpoint(run: Any, trained: Path) -> None:
    facts = json.loads(run("inspect", trained, "--verify", "--json").out)
    assert facts["kind"] == "checkpoint, format 1"
    assert facts["mapper"]["kind"] == "mlp"
    assert facts["verified"] is True
    assert run("inspect", trained / "last").out.startswith("kind: checkpoint, format 1\n")


def test_errors(tmp_path: Path, run: Any) -> None:
    result = run("inspect", tmp_path / "nowhere.h5")
    assert result.status == 2
    assert "nowhere.h5 does not exist; give a cache.h5 or a checkpoint's folder" in result.err
    assert "there is no model at" in run("inspect", tmp_path).err
