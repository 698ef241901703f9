"""The doctor finds models that ignore the image, and says where it is the cache that hides how good a model is."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from clipcap.caption.inspect.doctor import examine_checkpoint
from clipcap.data.cache.index import Cache, write_index
from clipcap.data.cache.shard import read_shard, write_shard
from small_world import Run

Tensors = dict[str, torch.Tensor]


@pytest.fixture
def demo(demo_run: tuple[Path, Any]) -> Path:
    """The folder of a small demo: cache.h5 with 40 validation images, and checkpoints/best."""
    return demo_run[0]


def change_weights(checkpoint: Path, target: Path, change: Callable[[Tensors], None]) -> Path:
    """Copy a checkpoint with other weights."""
    shutil.copytree(checkpoint, target)
    weights = load_file(target / "model.safetensors")
    change(weights)
    save_file(weights, target / "model.safetensors")
    return target


def ignore_images(weights: Tensors) -> None:
    """Let the mapper return the same prefix for all images."""
    weights["clip_project.model.2.weight"].zero_()


def test_a_healthy_model_has_no_finding(demo: Path) -> None:
    findings, facts = examine_checkpoint(demo / "checkpoints/best", demo / "cache.h5")
    assert findings == []
    assert (facts["split"], facts["images"], facts["captioned_images"]) == ("val", 40, 40)
    assert facts["image_gap"] > 1 and facts["distinct_captions"] > 30
    words = facts["nearest_words_of_the_prefix"]
    assert len(words) == 3
    assert all(len(prefix) == 10 and all(0 < one["cosine"] <= 1 for one in prefix) for prefix in words.values())


def test_a_collapsed_model_is_found(demo: Path, tmp_path: Path) -> None:
    checkpoint = change_weights(demo / "checkpoints/best", tmp_path / "collapsed", ignore_images)
    findings, facts = examine_checkpoint(checkpoint, demo / "cache.h5")
    assert [finding.check for finding in findings] == ["image_gap", "collapse"]
    assert (findings[1].count, findings[1].total) == (facts["distinct_captions"], 40) == (1, 40)
    assert facts["image_gap"] == 0


def test_weights_that_are_not_finite_are_found_without_a_cache(demo: Path, tmp_path: Path) -> None:
    def spoil(weights: Tensors) -> None:
        weights["clip_project.model.0.bias"][3] = torch.inf

    findings, facts = examine_checkpoint(change_weights(demo / "checkpoints/best", tmp_path / "spoiled", spoil))
    assert [(finding.check, finding.count, finding.examples) for finding in findings] == [
        ("weights", 1, ("clip_project.model.0.bias",))
    ]
    assert "image_gap" not in facts


def test_embeddings_that_are_not_finite_are_not_blamed_on_the_model(run: Run, demo: Path, tmp_path: Path) -> None:
    cache = Cache.open(demo / "cache.h5")
    entries = []
    for number, entry in enumerate(cache.shards):
        tables = read_shard(entry.path)
        embedding = tables.embedding.copy()
        embedding[np.flatnonzero(tables.split == 1)[::9]] = np.nan
        path = tmp_path / entry.path.name
        content = write_shard(path, replace(tables, embedding=embedding), cache.fingerprint.to_json(), number)
        entries.append(replace(entry, path=path, content=content))
    write_index(tmp_path / "cache.h5", cache.fingerprint, entries)
    result = run("inspect", demo / "checkpoints/best", "--doctor", "--cache", tmp_path / "cache.h5", "--json")
    assert result.status == 3
    content = json.loads(result.out, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    (finding,) = content["findings"]
    assert finding["check"] == "loss"
    assert str(tmp_path / "cache.h5") + " --doctor" in finding["fix"]
    assert content["facts"]["loss"] is None and content["facts"]["image_gap"] is None
