"""Captions of the validation images, made by a frozen copy of the model and scored while training goes on."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from runs import score_threads

from clipcap.data.cache.index import Cache
from clipcap.data.errors import ClipCapError
from clipcap.data.metrics import METRICS, tokenize_all
from clipcap.train import score, validate
from clipcap.train.build import build_trainer
from clipcap.train.engine import memory
from clipcap.train.loop import Trainer
from clipcap.train.model.captioning import copy_model
from clipcap.train.run.folder import RunFolder
from clipcap.train.score import BackgroundScore, main_figure, score_bytes
from clipcap.train.settings import TrainSettings

CPU = torch.device("cpu")


@pytest.fixture
def trainer(small_cache: Path, lm_folder: Path, tmp_path: Path) -> Trainer:
    settings = TrainSettings(lm=str(lm_folder), batch_size=9, metric="cider", precision="fp32")
    return build_trainer(settings, Cache.open(small_cache), RunFolder(tmp_path / "run"), CPU)


@pytest.fixture
def scores(trainer: Trainer) -> Iterator[BackgroundScore]:
    scores = trainer.checkpoints.scores
    assert scores is not None
    with scores:
        yield scores


@pytest.mark.parametrize(("metric", "figure"), [("bleu", "Bleu_4"), ("rouge", "ROUGE_L"), ("cider", "CIDEr")])
def test_the_score_is_the_figure_of_all_captioned_images_against_all_their_references(
    trainer: Trainer, scores: BackgroundScore, metric: str, figure: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = ["A red square, white", "Two circles", "a small dog runs over the grass", "", "An old train stands there"]
    batches: list[list[int]] = []

    def captions(model: Any, corpus: Any, tokenizer: Any, images: Any, *_: Any) -> list[str]:
        assert not model.training
        batches.append(images.tolist())
        return [said[image] for image in images]

    monkeypatch.setattr(score, "greedy_captions", captions)
    monkeypatch.setattr(score, "CAPTION_BATCH", 2)
    scores.metric = metric
    scores.start(trainer.model)
    found, _ = scores.result()
    assert trainer.val is not None
    texts: list[list[str]] = [[] for _ in said]
    for text, image in zip(trainer.val.text, trainer.val.image, strict=True):
        texts[image].append(text)
    references = [tokenize_all(some) for some in texts]
    assert [len(some) for some in references] == [1, 2, 3, 4, 5]
    assert found == pytest.approx(METRICS[metric](references)(tokenize_all(said))[figure].corpus, abs=1e-12)
    assert found > 0.001
    assert batches == [[0, 1], [2, 3], [4]]


def test_every_metric_has_one_main_figure() -> None:
    captions, references = ["a red dog runs fast", "a cat"], [["a red dog runs fast"], ["the cat sat"]]
    for metric, function in METRICS.items():
        figures = function(references)(captions)
        name = {"bleu": "Bleu_4", "rouge": "ROUGE_L", "cider": "CIDEr"}[metric]
        assert main_figure(figures) == figures[name].corpus


def test_the_captions_are_those_of_the_weights_at_the_start(trainer: Trainer, scores: BackgroundScore) -> None:
    assert trainer.val is not None
    before = {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}
    scores.start(trainer.model)
    with torch.no_grad():  # training goes on at once
        for parameter in trainer.model.parameters():
            parameter.zero_()
    _, model = scores.result()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not scores.running


def test_a_copy_shares_only_weights_that_do_not_train(trainer: Trainer) -> None:
    for parameter in trainer.model.gpt.parameters():
        parameter.requires_grad_(False)
    trainer.model.train()
    copied = copy_model(trainer.model)
    for (name, one), other in zip(trainer.model.named_parameters(), copied.parameters(), strict=True):
        assert (one is other) == name.startswith("gpt."), name
        assert one.requires_grad == other.requires_grad == name.startswith("clip_project."), name
    assert copied.gpt.lm_head.weight is copied.gpt.transformer.wte.weight


def test_a_score_draws_no_random_numbers(trainer: Trainer, scores: BackgroundScore) -> None:
    state = torch.get_rng_state()
    scores.start(trainer.model)
    scores.result()
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_score_leaves_the_weights_alone_that_training_has_cast(
    trainer: Trainer, scores: BackgroundScore, precision: str
) -> None:
    """Autocast keeps the cast of a weight until the end of the step; threads share this memory."""
    scores.precision = precision
    weight, rows = torch.nn.Parameter(torch.randn(4, 4)), torch.randn(2, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        first = torch.mm(rows, weight).grad_fn
        scores.start(trainer.model)
        scores.result()
        second = torch.mm(rows, weight).grad_fn
    assert first is not None
    assert second is not None
    assert first.next_functions[1][0] is second.next_functions[1][0]


def test_an_error_in_the_thread_is_raised_where_its_score_is_taken(
    trainer: Trainer, scores: BackgroundScore, monkeypatch: pytest.MonkeyPatch
) -> None:
    for error in (ValueError("of two\nlines"), torch.OutOfMemoryError("large"), ClipCapError("a shard is gone")):

        def fail(*_: Any, error: Exception = error) -> Any:
            raise error

        monkeypatch.setattr(score, "greedy_captions", fail)
        scores.start(trainer.model)
        with pytest.raises(ClipCapError) as raised:
            scores.result()
        assert "\n" not in str(raised.value)
        expected = {ValueError: "ValueError", torch.OutOfMemoryError: "no memory", ClipCapError: "a shard is gone"}
        assert expected[type(error)] in str(raised.value)


def test_leaving_the_context_stops_the_thread(trainer: Trainer, monkeypatch: pytest.MonkeyPatch) -> None:
    original, started = validate.greedy_captions, threading.Event()

    def forever(*arguments: Any) -> Any:
        started.set()
        while True:
            original(*arguments)

    monkeypatch.setattr(score, "greedy_captions", forever)
    scores = trainer.checkpoints.scores
    assert scores is not None
    with scores:
        scores.start(trainer.model)
        assert started.wait(60)
        assert not scores.wait(stopped=lambda: True)
    assert scores._done.is_set()
    assert score_threads() == []


def test_micro_batches_leave_room_for_the_score(trainer: Trainer, monkeypatch: pytest.MonkeyPatch) -> None:
    copied = sum(parameter.numel() * 4 for parameter in trainer.model.parameters())
    assert copied < score_bytes(trainer.model) == trainer.engine.reserved

    def micro_batches(free: int, reserved: int) -> int:
        monkeypatch.setattr(memory, "free_bytes", lambda device: free)
        loss = trainer.engine._loss
        return memory.micro_batches_that_fit(loss, trainer.train, 16, CPU, "fp32", "image", reserved=reserved)

    small = next(free for free in range(1 << 20, 1 << 30, 1 << 20) if micro_batches(free, 0) < 16)
    assert micro_batches(small, 1 << 20) > micro_batches(small, 0)
    assert micro_batches(small + (1 << 20), 1 << 20) == micro_batches(small, 0)


def test_at_most_so_many_images_are_scored_evenly_spaced(trainer: Trainer, monkeypatch: pytest.MonkeyPatch) -> None:
    assert trainer.val is not None
    monkeypatch.setattr(validate, "IMAGES", 2)
    scores = BackgroundScore(trainer.val, trainer.tokenizer, metric="rouge", device=CPU, precision="fp32")
    np.testing.assert_array_equal(scores.images, [0, 2])
