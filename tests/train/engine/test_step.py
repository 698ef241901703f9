"""Optimiser steps: clipping, micro-batches, short memory, the loss scale of fp16, and the engine's state."""

import copy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from clipcap.data.errors import ClipCapError
from clipcap.train.corpus.captions import Corpus
from clipcap.train.engine import memory
from clipcap.train.engine import result as results
from clipcap.train.engine.distributed import World
from clipcap.train.engine.step import Engine
from clipcap.train.model.captioning import ClipCapModel, train_mode
from clipcap.train.model.tuning import tune
from clipcap.train.packed.loss import PackedLoss
from clipcap.train.settings import TrainSettings
from plain import PREFIX, Rows, make_corpus, make_model, plain_batch, plain_loss

CPU = torch.device("cpu")
CORPUS = make_corpus(torch.float64)  # in float32, Adam turns the rounding of zero gradients into steps
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


def test_a_step_equals_torchs_adamw_with_torchs_clipping() -> None:
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
    assert max(norms) > 1  # some gradients were clipped
    assert_near(model, other, 1e-9)


@pytest.mark.parametrize("count", [2, 7, 100])
def test_micro_batches_make_the_same_step_as_the_whole_batch(count: int) -> None:
    at_once, cut = make_model("transformer", torch.float64), make_model("transformer", torch.float64)
    _, expected = train(at_once)
    _, found = train(cut, accumulate=count)
    for one, other in zip(found, expected, strict=True):
        assert one == pytest.approx(other, rel=1e-9)
    assert_near(cut, at_once, 1e-9)


def test_dropout_depends_only_on_the_seed_and_the_step() -> None:
    def losses(seed: int, before: int) -> list[tuple[float, float]]:
        model = make_model("mlp", torch.float64, resid_pdrop=0.3)
        torch.manual_seed(before)
        return train(model, seed=seed)[1]

    assert losses(0, before=1) == losses(0, before=2) != losses(1, before=1)


@pytest.mark.parametrize("tuning", ["all", "none"])
def test_less_memory_means_more_micro_batches(monkeypatch: pytest.MonkeyPatch, tuning: str) -> None:
    model = make_model("mlp", torch.float32)
    tune(model, tuning)
    loss = PackedLoss(model)

    def micro_batches(free: float, sampling: str) -> int:
        monkeypatch.setattr(memory, "free_bytes", lambda device: free)
        return memory.micro_batches_that_fit(loss, NARROW, 16, CPU, "fp32", sampling)

    found = {}
    for sampling in ("image", "caption"):
        counts = [micro_batches(free, sampling) for free in [1e12, *np.geomspace(1e8, 1e5, 50), 1e3]]
        assert counts[0] == 1
        assert counts == sorted(counts)
        assert counts[-1] == 16  # one caption at a time, the least
        assert len(set(counts)) > 3
        found[sampling] = counts
    # A caption with a prefix of its own takes more memory than captions that share one.
    assert sum(found["caption"]) > sum(found["image"])


def test_frozen_weights_keep_less_for_the_backward_pass() -> None:
    """Only a weight's gradient needs the inputs of each block's products, which are seven times the width of a row."""
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


def test_frozen_matrices_are_stored_in_the_dtype_of_their_products() -> None:
    """The losses equal those of float32 matrices to the bit; weights that train, or are saved, stay float32."""
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


def test_out_of_memory_doubles_the_micro_batches(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    forward = PackedLoss.forward

    def small(self: PackedLoss, batch: Any, scale: float = 1.0) -> torch.Tensor:
        if int((batch.target_row < len(batch.embedding)).sum()) > room:  # counts captions, by their first tokens
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


def test_fp16_trains_as_fp32_does_and_a_step_that_overflows_changes_nothing() -> None:
    model = make_model("mlp", torch.float32)
    before = weights(model)
    engine, found = train(model, NARROW, precision="fp16")
    assert engine.loss_scale.scale == results.FIRST_LOSS_SCALE
    exact = train(make_model("mlp", torch.float32), NARROW)[1]
    for one, other in zip(found, exact, strict=True):
        assert one == pytest.approx(other, rel=3e-2)
    assert not torch.equal(weights(model)["gpt.transformer.wte.weight"], before["gpt.transformer.wte.weight"])
    engine.loss_scale.scale = 1e30  # beyond what fp16 holds
    before = weights(model)
    result = engine.step(NARROW, BATCHES[0], rate=1e-3, number=9)
    loss, norm = result.read()
    assert not np.isfinite([loss, norm]).all()
    assert all(torch.equal(tensor, before[name]) for name, tensor in weights(model).items())
    assert all(value.isfinite().all() for value in engine.optimizer.moments().values())
    engine.finish(result)
    assert (engine.loss_scale.scale, engine.loss_scale.good_steps) == (5e29, 0)
    engine.loss_scale.scale = results.LEAST_LOSS_SCALE
    with pytest.raises(ClipCapError, match="step 10"):  # smaller scales do not help either
        engine.finish(result)


def test_the_loss_scale_grows_and_shrinks_as_torchs_does() -> None:
    scale = results.LossScale(8.0)
    scale.update(finite=False)
    assert (scale.scale, scale.good_steps) == (4.0, 0)
    for _ in range(results.GROW_EVERY):
        scale.update(finite=True)
    assert (scale.scale, scale.good_steps) == (8.0, 0)


def test_a_loss_that_is_not_finite_changes_no_weight_and_is_an_error() -> None:
    model = make_model("mlp", torch.float64)
    engine, _ = train(model)
    before = weights(model)
    poisoned = replace(CORPUS, embedding=Rows(torch.full((8, 24), np.inf, dtype=torch.float64)))
    result = engine.step(poisoned, BATCHES[0], rate=1e-3, number=3)
    with pytest.raises(ClipCapError, match="at step 4 the loss is nan"):
        engine.finish(result)
    assert all(torch.equal(tensor, before[name]) for name, tensor in weights(model).items())


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_trained_weight_that_is_not_finite_is_found(value: float) -> None:
    model = make_model("mlp", torch.float64)
    tune(model, "last:1")
    engine, _ = train(model, tune="last:1")
    engine.check_weights()
    with torch.no_grad():
        model.gpt.get_parameter("transformer.h.0.attn.c_attn.weight")[2, 3] = value  # frozen, so it is not checked
        engine.check_weights()
        model.gpt.get_parameter("transformer.h.2.attn.c_attn.weight")[2, 3] = value
    with pytest.raises(ClipCapError, match=r"gpt\.transformer\.h\.2\.attn\.c_attn\.weight"):
        engine.check_weights()


def test_an_engine_with_the_state_of_another_makes_the_same_steps() -> None:
    model = make_model("mlp", torch.float64)
    engine, _ = train(model, accumulate=3)
    engine.loss_scale = results.LossScale(2.0, 7)
    other = make_model("mlp", torch.float64)
    other.load_state_dict(model.state_dict())
    train_mode(other)
    again = Engine(other, engine.settings, CPU, World())
    again.load_state_dict(copy.deepcopy(engine.state_dict()))
    assert (again.micro_batches, again.loss_scale) == (3, results.LossScale(2.0, 7))
    for one in (engine, again):
        one.step(CORPUS, BATCHES[0], rate=1e-3, number=3)
    assert_near(model, other, 0)


@pytest.mark.parametrize("damage", ["missing", "shape"])
def test_a_state_that_does_not_fit_the_model_is_refused(damage: str) -> None:
    engine, _ = train(make_model("mlp", torch.float64))
    state = engine.state_dict()
    moments = state["tensors"]
    name = "exp_avg.gpt.transformer.wte.weight"
    if damage == "missing":
        del moments[name]
    else:
        moments[name] = moments[name][1:]
    with pytest.raises((KeyError, ValueError), match=r"gpt\.transformer\.wte\.weight"):
        engine.load_state_dict(state)
