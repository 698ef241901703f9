"""Training on real photographs with the real vocabulary: a small GPT-2 memorizes them, and a full-size one trains."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open

from clipcap.data.cache.index import Cache
from small_world import make_lm, small_models

pytestmark = pytest.mark.slow


COPIES = 4  # of each caption, so that an epoch, which ends with a validation and a checkpoint, has more steps


def subset(shared: Path, folder: Path, train: int, val: int) -> Path:
    """Make a COCO folder of links to the first photographs of each split, with copies of one caption each."""
    for split, count in (("train", train), ("val", val)):
        content = json.loads((shared / f"data/coco/annotations/captions_{split}2017.json").read_text())
        images = content["images"][:count]
        first: dict[int, dict[str, Any]] = {}
        for annotation in content["annotations"]:
            first.setdefault(annotation["image_id"], annotation)
        annotations = [first[image["id"]] for image in images for _ in range(COPIES)]
        (folder / f"{split}2017").mkdir(parents=True)
        for image in images:
            name = f"{split}2017/{image['file_name']}"
            (folder / name).symlink_to(shared / "data/coco" / name)
        (folder / "annotations").mkdir(exist_ok=True)
        text = json.dumps({"images": images, "annotations": annotations})
        (folder / f"annotations/captions_{split}2017.json").write_text(text)
    return folder


def test_a_small_model_memorizes_twenty_photographs_and_captions_each_from_its_embedding(
    shared: Path, tmp_path: Path, run: Any, clip_folder: Path
) -> None:
    coco = subset(shared, tmp_path / "coco", train=20, val=4)
    index = tmp_path / "cache.h5"
    assert run("precompute", coco, "-o", index, *small_models(clip_folder, shared / "data/gpt2")).status == 0
    sizes: dict[str, Any] = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0, "n_embd": 128}
    lm = make_lm(tmp_path / "lm", shared / "data/gpt2", **sizes)
    options = ["--lm", lm, "--batch-size", 2, "--sampling", "caption", "--epochs", 9, "--lr", 2e-3]
    options += ["--precision", "fp32", "--device", "cpu"]
    result = run("train", index, "-o", tmp_path / "run", *options)
    assert result.status == 0, result.err
    tables = next(Cache.open(index).tables())
    train = tables.split == 0
    first = tables.first_caption[:-1][train]
    references = [" ".join(tables.text[i].split()) for i in first]
    assert len(references) == len(set(references)) == 20

    model = ["--model", tmp_path / "run/last", "--device", "cpu", "--json"]
    results = json.loads(run("caption", index, "--split", "train", *model).out)
    right = [result["caption"] == reference for result, reference in zip(results, references, strict=True)]
    assert all(right)
    np.save(tmp_path / "shuffled.npy", np.roll(tables.embedding[train], 7, axis=0))
    results = json.loads(run("caption", tmp_path / "shuffled.npy", *model).out)
    assert [result["input"] for result in results] == [f"{tmp_path}/shuffled.npy[{i}]" for i in range(20)]
    captions = [result["caption"] for result in results]
    assert not any(caption == reference for caption, reference in zip(captions, references, strict=True))
    # Each caption belongs to the image of its embedding.
    assert captions == [references[(i - 7) % 20] for i in range(20)]


@pytest.mark.usefixtures("all_cores")
def test_a_full_size_gpt2_trains_saves_all_weights_and_captions(
    shared: Path, tmp_path: Path, run: Any, clip_folder: Path
) -> None:
    sizes = {"n_embd": 768, "n_layer": 12, "n_head": 12, "n_positions": 1024}
    lm = make_lm(tmp_path / "gpt2", shared / "data/gpt2", **sizes)
    index = tmp_path / "cache.h5"
    models = small_models(clip_folder, shared / "data/gpt2")
    assert run("precompute", shared / "data/coco", "-o", index, *models, "--limit", 6).status == 0
    options = ["--lm", lm, "--batch-size", 8, "--epochs", 1, "--device", "cpu"]
    result = run("train", index, "-o", tmp_path / "run", *options)
    assert result.status == 0, result.err
    assert "GPT-2 124.44M: all of it" in result.err
    with safe_open(tmp_path / "run/best/model.safetensors", "pt") as file:
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    assert shapes["gpt.transformer.wte.weight"] == (50257, 768)
    assert shapes["clip_project.model.2.weight"] == (7680, 3840)
    assert sum(torch.Size(shape).numel() for name, shape in shapes.items() if name.startswith("gpt.")) == 124_439_808
    photograph = shared / "data/coco/val2017/000000000139.jpg"
    result = run("caption", photograph, "--model", tmp_path / "run/best", "--max-tokens", 8, "--device", "cpu")
    assert result.status == 0, result.err
    assert len(result.out.splitlines()) == 1
