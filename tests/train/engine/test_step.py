"""Optimiser steps: clipped as torch clips, the same in parts as at once, halved where memory is short, fp16 scaled."""

import copy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from clipcap.data.errors import ClipCapError
from clipcap.train.corpus.captions import Corpus
from clipcap.train.engine import memory
from clipcap.train.engine import step as module
from clipcap.train.engine.distributed import World
from clipcap.train.engine.step import Engine
from clipcap.train.model.captioning import ClipCapModel, train_mode
from clipcap.train.model.tuning import tune
from clipcap.train.packed.loss import PackedLoss
from clipcap.train.settings import TrainSettings
from plain import PREFIX, Rows, make_corpus, make_model, plain_batch, plain_loss

CPU = torch.device("cpu")
CORPUS = make_corpus(torch.float64)  # in float32, Adam makes steps of gradients that are zero but for rounding
NARROW = make_corpus(torch.float32)
BATCHES = [np.arange(10), np.arange(10, len(CORPUS)), np.arange(0, len(CORPUS), 3)]


def train(model: ClipCapModel, corpus: Corpus = CORPUS, **options: Any) -> tuple[Engine, list[tuple[float, float]]]:
    train_mode(model)
    settings = TrainSettings(batch_size=16, **{"accumulate": 1, "precision": "fp32", **options})
    engine = Engine(model, settings, CPU, World())
    steps = enumerate(BATCHES)
    return engine, [engine.step(corpus, batch, rate=1e-3, number=number).read() for number, batch in steps]


def weights(model: ClipCapModel) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def assert_near(one: ClipCapModel, other: ClipCapModel, bound: float) -> None:
    for (name, tensor), expected in zip(weights(one).items(), weights(other).values(), strict=True):
        torch.testing.assert_close(tensor, expected, rtol=0, atol=bound, msg=name)


def test_a_step_is_torchs_own_with_torchs_own_clipping() -> None:
    model = make_model("mlp", torch.float64)
    other = copy.deepcopy(model)
    _, found = train(model, weight_decay=0.1)
    matrices, vectors = ([p for p in other.parameters() if (p.ndim > 1) == many] for many in (True, False))
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}], lr=1e-3
    )
    norms = []
    for batch, (loss, norm) in zip(BATCHES, found, strict=True):
        plain = plain_loss(other, plain_batch(CORPUS, batch)) / int(CORPUS.length[batch].sum())
        plain.backward()
        expected = torch.nn.utils.clip_grad_norm_(other.parameters(), 1.0).item()
        optimizer.step()
        optimizer.zero_grad()
        assert [loss, norm] == pytest.approx([plain.item(), expected], rel=1e-6)
        norms.append(norm)
    assert max(norms) > 1  # clipping was at work
    assert_near(model, other, 1e-9)


@pytest.mark.parametrize("parts", [2, 7, 100])
def test_in_parts_it_is_the_same_step(parts: int) -> None:
    at_once, in_parts = make_model("transformer", torch.float64), make_model("transformer", torch.float64)
    _, expected = train(at_once)
    _, found = train(in_parts, accumulate=parts)
    for one, other in zip(found, expected, strict=True):
        assert one == pytest.approx(other, rel=1e-9)
    assert_near(in_parts, at_once, 1e-9)


def test_dropout_depends_on_seed_and_step_alone() -> None:
    def losses(seed: int, before: int) -> list[tuple[float, float]]:
        model = make_model("mlp", torch.float64, resid_pdrop=0.3)
        torch.manual_seed(before)
        return train(model, seed=seed)[1]

    assert losses(0, before=1) == losses(0, before=2) != losses(1, before=1)


@pytest.mark.parametrize("tuning", ["all", "none"])
def test_as_many_parts_as_memory_needs(monkeypatch: pytest.MonkeyPatch, tuning: str) -> None:
    model = make_model("mlp", torch.float32)
    tune(model, tuning)
    loss = PackedLoss(model)

    def parts(free: float, sampling: str) -> int:
        monkeypatch.setattr(memory, "free_bytes", lambda device: free)
        return memory.micro_batches_that_fit(loss, NARROW, 16, CPU, "fp32", sampling)

    found = {}
    for sampling in ("image", "caption"):
        counts = [parts(free, sampling) for free in [1e12, *np.geomspace(1e8, 1e5, 50), 1e3]]
        assert counts[0] == 1
        assert counts == sorted(counts)
        assert counts[-1] == 16  # one caption at a time, and not less
        assert len(set(counts)) > 3
        found[sampling] = counts
    # A caption that has a prefix for itself takes more.
    assert sum(found["caption"]) > sum(found["image"])


def test_frozen_weights_leave_less_behind() -> None:
    """By what only a weight's gradient needs: the inputs of each block's products, seven times the width of a row."""
    kept = {}
    for tuning in ("all", "none"):
        model = make_model("mlp", torch.float32)
        tune(model, tuning)
        kept[tuning] = memory._kept_bytes(PackedLoss(model), NARROW, BATCHES[1], CPU, "fp32")
    batch = NARROW.packed(BATCHES[1], PREFIX)
    rows, used, blocks = len(batch.position), len(batch.predicting_row), len(model.gpt.transformer.h)
    inputs = 7 * rows * (blocks - 1) + 2 * rows + 5 * used  # the last block's feed-forward has fewer rows
    assert kept["all"] - kept["none"] >= 4 * model.gpt.config.n_embd * inputs
    assert kept["none"] > 0


def test_frozen_matrices_are_kept_as_products_round_them() -> None:
    """The losses are those of the wide ones, to the bit; what is trained, or in a checkpoint, stays wide."""
    losses = []
    for tuning, narrow in (("none", True), ("last:1", False)):
        model = make_model("mlp", torch.float32)
        tune(model, "none")
        before = weights(model)
        _, found = train(model, NARROW, tune=tuning, precision="bf16")
        losses.append(found)
        for name, tensor in weights(model).items():
            inside = ".h." in name and tensor.ndim > 1
            assert tensor.dtype == (torch.bfloat16 if inside and narrow else torch.float32), name
            assert torch.equal(tensor, before[name].to(tensor.dtype)) == name.startswith("gpt."), name
    assert losses[0] == losses[1]


def test_what_does_not_fit_goes_in_halves(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    forward = PackedLoss.forward

    def small(self: PackedLoss, batch: Any, scale: float = 1.0) -> torch.Tensor:
        if int((batch.target_row < len(batch.embedding)).sum()) > room:  # captions: first tokens
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(self, batch, scale)

    at_once, halved = make_model("mlp", torch.float64), make_model("mlp", torch.float64)
    train(at_once)
    monkeypatch.setattr(PackedLoss, "forward", small)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    room = 12
    with caplog.at_level("INFO", "clipcap"):
        engine, _ = train(halved)
    assert engine.micro_batches == 4
    assert [record.getMessage() for record in caplog.records] == [
        "out of memory with 16 captions at a time; trying 8",
        "out of memory with 8 captions at a time; trying 4",
    ]
    assert_near(halved, at_once, 1e-9)
    room = 0
    with pytest.raises(ClipCapError, match="1 captions at a time do not fit into the memory of cpu"):
        train(make_model("mlp", torch.float64))


def test_fp16_is_scaled_and_a_bad_step_changes_nothing() -> None:
    model = make_model("mlp", torch.float32)
    before = weights(model)
    engine, found = train(model, NARROW, precision="fp16")
    assert engine.loss_scale.scale == module.FIRST_LOSS_SCALE
    exact = train(make_model("mlp", torch.float32), NARROW)[1]
    for one, other in zip(found, exact, strict=True):
        assert one == pytest.approx(other, rel=3e-2)
    assert not torch.equal(weights(model)["gpt.transformer.wte.weight"], before["gpt.transformer.wte.weight"])
    engine.loss_scale.scale = 1e30  # beyond what fp16 holds
    before = weights(model)
    loss, norm = engine.step(NARROW, BATCHES[0], rate=1e-3, number=9).read()
    assert not np.isfinite([loss, norm]).all()
    assert all(torch.equal(tensor, before[name]) for name, tensor in weights(model).items())
    moments = [value for state in engine.optimizer.state.values() for value in state.values()]
    assert all(value.isfinite().all() for value in moments)


def test_the_scale_grows_and_shrinks_as_torchs() -> None:
    scale = module.LossScale(8.0)
    scale.update(finite=False)
    assert (scale.scale, scale.good_steps) == (4.0, 0)
    for _ in range(module.GROW_EVERY):
        scale.update(finite=True)
    assert (scale.scale, scale.good_steps) == (8.0, 0)


def test_a_loss_that_is_no_number_leaves_the_weights() -> None:
    model = make_model("mlp", torch.float64)
    engine, _ = train(model)
    before = weights(model)
    poisoned = replace(CORPUS, embedding=Rows(torch.full((8, 24), np.inf, dtype=torch.float64)))
    loss, _ = engine.step(poisoned, BATCHES[0], rate=1e-3, number=3).read()
    assert np.isnan(loss)
    assert all(torch.equal(tensor, before[name]) for name, tensor in weights(model).items())
