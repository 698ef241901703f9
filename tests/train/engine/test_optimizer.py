"""Which optimiser updates which weights, at which rate, and what a gradient that is not finite leaves alone."""

import copy

import pytest
import torch

from clipcap.train.engine.optimizer import Optimizer
from clipcap.train.model.captioning import ClipCapModel
from clipcap.train.settings import TrainSettings
from plain import make_model

CPU = torch.device("cpu")
RATE = 0.01


def updated(model: ClipCapModel, *, bad: bool = False, steps: int = 1, **options: object) -> dict[str, torch.Tensor]:
    """Give every weight a gradient, and return by how much each one changes."""
    optimizer = Optimizer(model, TrainSettings(**options), CPU)  # type: ignore[arg-type]
    before = {name: parameter.detach().clone() for name, parameter in optimizer.parameters.items()}
    torch.manual_seed(1)
    for _ in range(steps):
        for parameter in optimizer.parameters.values():
            parameter.grad = torch.randn_like(parameter)
        optimizer.step(RATE, torch.tensor(4.0), torch.tensor(bad))
    return {name: parameter.detach() - before[name] for name, parameter in optimizer.parameters.items()}


@pytest.mark.parametrize("mapper", ["mlp", "transformer", "encoder"])
def test_muon_makes_the_updates_of_the_matrices_within_orthogonal_and_leaves_the_rest_to_adamw(mapper: str) -> None:
    model = make_model(mapper, torch.float32)
    plain = updated(copy.deepcopy(model), optimizer="adamw")
    found = updated(model, optimizer="muon")
    within = {name for name, change in found.items() if not torch.equal(change, plain[name])}
    assert within == {
        name
        for name, change in found.items()
        if change.ndim == 2 and name not in {"gpt.transformer.wte.weight", "gpt.transformer.wpe.weight"}
        if name != "clip_project.prefix_const"
    }
    for name in within:
        size = RATE * 0.2 * max(found[name].shape) ** 0.5  # of AdamW's updates (arXiv:2502.16982)
        values, adamw = (torch.linalg.svdvals(changes[name]) / size for changes in (found, plain))
        # Five iterations bring all singular values near 1, but for those that were nearly 0.
        assert 0.6 < float(values.quantile(0.1)) <= float(values.max()) < 1.3, name
        assert float(adamw.quantile(0.1)) < 0.6 * float(adamw.max()), name


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_the_mapper_learns_at_its_own_rate(optimizer: str) -> None:
    model = make_model("mlp", torch.float32)
    plain = updated(copy.deepcopy(model), optimizer=optimizer, lr=1e-3)
    found = updated(model, optimizer=optimizer, lr=1e-3, mapper_lr=5e-4)
    for name, change in found.items():
        ratio = 0.5 if name.startswith("clip_project.") else 1.0
        torch.testing.assert_close(change, plain[name] * ratio, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_gradient_that_is_not_finite_changes_nothing(optimizer: str) -> None:
    changes = updated(make_model("transformer", torch.float32), bad=True, optimizer=optimizer, weight_decay=0.5)
    assert not any(change.any() for change in changes.values())


def test_muons_matrices_have_weight_decay_and_clipped_gradients() -> None:
    model = make_model("mlp", torch.float32)
    optimizer = Optimizer(model, TrainSettings(optimizer="muon", weight_decay=0.25), CPU)
    name = "gpt.transformer.h.0.attn.c_proj.weight"
    before = optimizer.parameters[name].detach().clone()
    gradient = torch.full_like(before, 8.0)
    optimizer.parameters[name].grad = gradient.clone()
    optimizer.step(RATE, torch.tensor(4.0), torch.tensor(False))
    torch.testing.assert_close(optimizer.moments()[f"momentum_buffer.{name}"], gradient / 4 * 0.05)
    twin = Optimizer(make_model("mlp", torch.float32), TrainSettings(optimizer="muon"), CPU)
    twin.parameters[name].grad = gradient.clone()
    twin.step(RATE, torch.tensor(4.0), torch.tensor(False))
    torch.testing.assert_close(optimizer.parameters[name], twin.parameters[name] - RATE * 0.25 * before)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_moments_that_are_stored_and_loaded_continue_in_the_same_way(optimizer: str) -> None:
    settings = TrainSettings(optimizer=optimizer, mapper_lr=1e-4, lr=2e-4)
    one = make_model("mlp", torch.float32)
    first = Optimizer(one, settings, CPU)

    def step(made: Optimizer, seed: int) -> None:
        torch.manual_seed(seed)
        for parameter in made.parameters.values():
            parameter.grad = torch.randn_like(parameter)
        made.step(RATE, torch.tensor(1.0), torch.tensor(False))

    step(first, 0)
    other = copy.deepcopy(one)
    second = Optimizer(other, settings, CPU)
    second.load_moments({name: tensor.clone() for name, tensor in first.moments().items()})
    step(first, 1)
    step(second, 1)
    for expected, found in zip(one.parameters(), other.parameters(), strict=True):
        assert torch.equal(found, expected)
    key = {"adamw": "exp_avg_sq", "muon": "momentum_buffer"}[optimizer]
    name = f"{key}.gpt.transformer.h.0.mlp.c_fc.weight"
    for broken in (first.moments()[name][:1], torch.tensor(0.0)):
        with pytest.raises(ValueError, match="another shape"):
            second.load_moments({**first.moments(), name: broken})
