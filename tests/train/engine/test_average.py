"""The average of the weights over the steps: what it is, that training does not depend on it, and that it is saved."""

from pathlib import Path
from typing import Any

import pytest
import torch
from runs import metrics, weights

from clipcap.data.cache.index import Cache
from clipcap.train.build import build_trainer
from clipcap.train.engine.average import Average
from clipcap.train.model.tuning import tune
from clipcap.train.run.folder import RunFolder
from clipcap.train.settings import TrainSettings
from clipcap.train.validate import validate
from plain import make_model

CPU = torch.device("cpu")


def test_the_average_moves_towards_the_weights_by_the_decay_and_quicker_in_the_first_steps() -> None:
    model = make_model("mlp", torch.float64)
    tune(model, "last:1")
    average = Average(model, 0.3)
    expected = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
    for number, decay in enumerate([1 / 10, 2 / 11, 3 / 12, 0.3, 0.3]):
        with torch.no_grad():
            for name, before in expected.items():
                weight = model.get_parameter(name).normal_()
                expected[name] = decay * before + (1 - decay) * weight
        average.update(number)
    for name, parameter in average.model.named_parameters():
        if name in expected:
            torch.testing.assert_close(parameter.detach(), expected[name], rtol=1e-12, atol=1e-12, msg=name)
        else:
            assert parameter is model.get_parameter(name)


def test_checkpoints_hold_the_average_and_the_steps_are_those_without_it(
    tmp_path: Path, run: Any, small_cache: Path, lm_folder: Path
) -> None:
    options = [small_cache, "--lm", lm_folder, "--epochs", 2, "--batch-size", 9, "--lr", 1e-2, "--precision", "fp32"]
    plain, averaged, near = (tmp_path / name for name in ("plain", "averaged", "near"))
    for folder, own in ((plain, []), (averaged, ["--ema", 0.9]), (near, ["--ema", 1e-9])):
        assert run("train", *options, *own, "-o", folder, "--device", "cpu").status == 0
    losses = [[line["train_loss"] for line in metrics(folder) if "train_loss" in line] for folder in (plain, averaged)]
    assert losses[0] == losses[1]
    found, raw = weights(averaged / "last"), weights(plain / "last")
    assert not any(torch.equal(found[name], raw[name]) for name in raw)
    for name, weight in weights(near / "last").items():  # an average that keeps nothing of earlier steps
        torch.testing.assert_close(weight, raw[name], rtol=0, atol=1e-7, msg=name)

    settings = TrainSettings(lm=str(lm_folder), epochs=2, batch_size=9, lr=1e-2, precision="fp32", ema=0.9)
    trainer = build_trainer(settings, Cache.open(small_cache), RunFolder(averaged), CPU)
    trainer.resume()
    for name, weight in trainer.model.state_dict().items():
        assert torch.equal(weight, raw.get(name, weight)), name
    assert trainer.val is not None
    result = validate(
        trainer.engine.evaluated, trainer.val, trainer.tokenizer, batch_size=9, device=CPU, precision="fp32"
    )
    assert result is not None
    assert [line["val_loss"] for line in metrics(averaged) if "val_loss" in line][-1] == pytest.approx(result.loss)


@pytest.mark.parametrize("damage", ["missing", "shape"])
def test_a_state_without_the_weights_that_train_is_refused(
    tmp_path: Path, small_cache: Path, lm_folder: Path, damage: str
) -> None:
    settings = TrainSettings(lm=str(lm_folder), batch_size=9, precision="fp32", ema=0.9)
    engine = build_trainer(settings, Cache.open(small_cache), RunFolder(tmp_path), CPU).engine
    state = engine.state_dict()
    name = "weight.gpt.transformer.wte.weight"
    if damage == "missing":
        del state["tensors"][name]
    else:
        state["tensors"][name] = state["tensors"][name][:1]  # would be copied to every row
    with pytest.raises((KeyError, ValueError), match=r"gpt\.transformer\.wte\.weight"):
        engine.load_state_dict(state)
