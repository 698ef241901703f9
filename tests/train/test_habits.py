"""Settings that change the training besides rates and sizes: each changes exactly what it names."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from clipcap.data.cache.index import Cache
from clipcap.train.build import build_trainer
from clipcap.train.corpus.captions import load_corpora
from clipcap.train.packed.loss import PackedLoss
from clipcap.train.run.folder import RunFolder
from clipcap.train.settings import TrainSettings
from plain import plain_batch

Options = list[Any]


@pytest.fixture
def options(small_cache: Path, lm_folder: Path) -> Options:
    return [small_cache, "--lm", lm_folder, "--batch-size", 9, "--precision", "fp32", "--device", "cpu"]


def trainer(small_cache: Path, lm_folder: Path, tmp_path: Path, **settings: Any) -> Any:
    described = TrainSettings(lm=str(lm_folder), **settings)
    return build_trainer(described, Cache.open(small_cache), RunFolder(tmp_path / "run"), torch.device("cpu"))


def test_a_subset_has_whole_images_with_all_their_captions(small_cache: Path) -> None:
    corpus = load_corpora(Cache.open(small_cache), 60)["train"]
    half = corpus.subset(0.5, seed=1)
    assert half.images == 6
    chosen = set(half.image.tolist())
    assert half.image.tolist() == [image for image in corpus.image.tolist() if image in chosen]
    assert half.text == [
        text for text, image in zip(corpus.text, corpus.image.tolist(), strict=True) if image in chosen
    ]
    whole = plain_batch(corpus, np.flatnonzero(corpus.image == min(chosen)))
    for one, other in zip(plain_batch(half, range(len(whole[2]))), whole, strict=True):
        assert torch.equal(one, other)
    assert set(corpus.subset(0.5, seed=1).image.tolist()) == chosen
    assert any(set(corpus.subset(0.5, seed=seed).image.tolist()) != chosen for seed in range(2, 6))
    assert corpus.subset(1e-6, seed=0).images == 1


def test_a_run_ends_after_patience_epochs_without_a_better_loss(run: Any, options: Options, tmp_path: Path) -> None:
    # The rate is so low that no epoch is better than the first.
    arguments = [*options, "-o", tmp_path / "run", "--epochs", 9, "--lr", 1e-60, "--patience", 2]
    result = run("train", *arguments)
    assert result.status == 0, result.err
    assert "epoch 3: validation loss" in result.err
    assert "epoch 4" not in result.err
    assert "lowest 2 epochs ago" in result.err
    assert result.out == f"{tmp_path}/run/best\n"
    again = run("train", *arguments, "--resume")
    assert (again.status, "is finished: 3 epochs" in again.err) == (0, True)


def test_label_smoothing_spreads_a_share_of_the_target_over_all_tokens(
    small_cache: Path, lm_folder: Path, tmp_path: Path
) -> None:
    found = trainer(small_cache, lm_folder, tmp_path)
    model, batch = found.model.eval(), plain_batch(found.train, range(4))
    with torch.no_grad():
        smooth = model.token_losses(*batch, label_smoothing=0.2)
        logits, targets = model.target_logits(*batch)
    surprise = -logits.log_softmax(dim=-1)
    expected = 0.8 * surprise.gather(1, targets[:, None])[:, 0] + 0.2 * surprise.mean(dim=1)
    torch.testing.assert_close(smooth, expected)
    assert not torch.allclose(smooth, F.cross_entropy(logits, targets, reduction="none"), atol=1e-3)


def test_only_matrices_have_weight_decay(small_cache: Path, lm_folder: Path, tmp_path: Path) -> None:
    found = trainer(small_cache, lm_folder, tmp_path, weight_decay=0.3)
    (adamw,) = found.engine.optimizer.optimizers
    matrices, vectors = sorted(adamw.param_groups, key=lambda group: -group["weight_decay"])
    assert (matrices["weight_decay"], vectors["weight_decay"]) == (0.3, 0.0)
    assert {p.ndim for p in matrices["params"]} == {2}
    assert {p.ndim for p in vectors["params"]} == {1}
    assert len(matrices["params"]) + len(vectors["params"]) == len(found.engine.optimizer.parameters)


def test_dropout_and_mapper_dropout_set_the_dropout_of_their_modules(
    small_cache: Path, lm_folder: Path, tmp_path: Path
) -> None:
    def twice(**settings: Any) -> bool:
        found = trainer(small_cache, lm_folder, tmp_path, **settings)
        model, batch = found.model.train(), plain_batch(found.train, range(4))
        loss, packed = PackedLoss(model), found.train.packed(np.arange(4), 10)
        same = torch.equal(model.token_losses(*batch), model.token_losses(*batch))
        assert same == torch.equal(loss(packed), loss(packed))
        return same

    assert not twice()  # the default is GPT-2's own dropout
    assert twice(dropout=0.0)
    assert not twice(dropout=0.0, mapper="encoder", mapper_options={"dropout": 0.2})
    assert twice(dropout=0.0, mapper="encoder")


def test_captions_over_the_limit_are_cut_and_counted_in_a_warning(
    run: Any, options: Options, small_cache: Path, tmp_path: Path
) -> None:
    lengths = [int(n) for corpus in load_corpora(Cache.open(small_cache), 60).values() for n in corpus.length]
    result = run("train", *options, "-o", tmp_path / "run", "--epochs", 1, "--max-caption-tokens", 24)
    assert result.status == 0, result.err
    cut = sum(length > 24 for length in lengths)
    assert 0 < cut < len(lengths)
    assert f"warning: {cut} of {len(lengths)} captions" in result.err


def test_a_run_logs_which_weights_train_and_how_many(run: Any, options: Options, tmp_path: Path) -> None:
    result = run("train", *options, "-o", tmp_path / "run", "--epochs", 1, "--tune", "last:1", "--mapper", "linear")
    assert result.status == 0, result.err
    assert re.search(r"training mapper 0\.01M; GPT-2 0\.01M: block 1, final norm; on 33 captions", result.err)
    result = run("train", *options, "-o", tmp_path / "x", "--tune", "last:3")
    assert result.status == 2
    assert "--tune last:3" in result.err.splitlines()[-1]
