"""The validation loss, the image gap and the samples of a model."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from runs import metrics

from clipcap.data.cache.index import Cache
from clipcap.train import validate as validation
from clipcap.train.corpus.captions import load_corpora
from clipcap.train.model.checkpoint import load_checkpoint
from plain import plain_batch
from small_world import make_coco, small_models


def test_the_image_gap_is_the_loss_with_exchanged_embeddings_minus_the_validation_loss(
    trained: Path, small_cache: Path
) -> None:
    model, _, _ = load_checkpoint(trained / "last")
    corpus = load_corpora(Cache.open(small_cache), 54)["val"]
    embedding, tokens, lengths = plain_batch(corpus, range(len(corpus)))
    images = np.arange(len(corpus.embedding))
    other = corpus.embedding[np.roll(images, len(images) // 2)[corpus.image]]
    with torch.no_grad():
        real = model.token_losses(embedding, tokens, lengths).mean().item()
        exchanged = model.token_losses(other, tokens, lengths).mean().item()
    line = metrics(trained)[-1]
    assert line["val_loss"] == pytest.approx(real, rel=1e-5)
    assert line["image_gap"] == pytest.approx(exchanged - real, abs=1e-5)
    assert line["image_gap"] > 0


def test_images_without_captions_are_not_validated_on(
    tmp_path: Path, run: Any, clip_folder: Path, tokenizer_folder: Path, lm_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    coco = make_coco(tmp_path / "coco", train=4, val=6)
    file = coco / "annotations/captions_val2017.json"
    content = json.loads(file.read_text())
    captioned = [image["id"] for image in content["images"]][1::2]
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] in captioned]
    file.write_text(json.dumps(content))
    run("precompute", coco, "-o", tmp_path / "c.h5", *small_models(clip_folder, tokenizer_folder))
    options = [tmp_path / "c.h5", "--lm", lm_folder, "--epochs", 1, "--device", "cpu"]
    monkeypatch.setattr(validation, "IMAGES", 2)
    monkeypatch.setattr(validation, "SAMPLES", 2)
    result = run("train", *options, "-o", tmp_path / "run")
    assert result.status == 0, result.err
    samples = metrics(tmp_path / "run")[-1]["samples"]
    assert [sample["path"][-7:] for sample in samples] == ["106.jpg", "108.jpg"]
    assert all(sample["reference"] for sample in samples)


def test_a_single_validation_image_has_no_image_gap_and_no_warning(
    tmp_path: Path, run: Any, clip_folder: Path, tokenizer_folder: Path, lm_folder: Path
) -> None:
    coco = make_coco(tmp_path / "coco", train=4, val=1)
    run("precompute", coco, "-o", tmp_path / "c.h5", *small_models(clip_folder, tokenizer_folder))
    options = [tmp_path / "c.h5", "--lm", lm_folder, "--epochs", 1, "--device", "cpu"]
    result = run("train", *options, "-o", tmp_path / "run")
    assert result.status == 0, result.err
    assert "image gap unknown" in result.err
    assert "warning" not in result.err
    assert metrics(tmp_path / "run")[-1]["image_gap"] is None
