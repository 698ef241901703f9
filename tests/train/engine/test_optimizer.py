"""Which optimiser updates which weights, at which rate, and what a gradient that is not finite leaves alone."""

import copy

import pytest
import torch

from clipcap.train.engine import muon
from clipcap.train.engine.muon import Muon, orthogonal
from clipcap.train.engine.optimizer import Optimizer
from clipcap.train.model.captioning import ClipCapModel
from clipcap.train.settings import TrainSettings
from plain import make_model

RATE = 0.01


def updated(model: ClipCapModel, *, bad: bool = False, steps: int = 1, **options: object) -> dict[str, torch.Tensor]:
    """Give every weight a gradient, and return by how much each one changes."""
    optimizer = Optimizer(model, TrainSettings(**options))  # type: ignore[arg-type]
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
    optimizer = Optimizer(model, TrainSettings(optimizer="muon", weight_decay=0.25))
    name = "gpt.transformer.h.0.attn.c_proj.weight"
    before = optimizer.parameters[name].detach().clone()
    gradient = torch.full_like(before, 8.0)
    optimizer.parameters[name].grad = gradient.clone()
    optimizer.step(RATE, torch.tensor(4.0), torch.tensor(False))
    torch.testing.assert_close(optimizer.moments()[f"momentum_buffer.{name}"], gradient / 4 * 0.05)
    twin = Optimizer(make_model("mlp", torch.float32), TrainSettings(optimizer="muon"))
    twin.parameters[name].grad = gradient.clone()
    twin.step(RATE, torch.tensor(4.0), torch.tensor(False))
    torch.testing.assert_close(optimizer.parameters[name], twin.parameters[name] - RATE * 0.25 * before)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_muon_makes_the_updates_of_torchs(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    matrices = [torch.randn(shape, requires_grad=True) for shape in [(8, 24), (24, 8), (8, 24), (9, 17), (8, 8)]]
    copies = [matrix.detach().clone().requires_grad_() for matrix in matrices]
    ours = Muon([{"params": matrices, "lr": RATE, "weight_decay": 0.1}], dtype)
    torchs = torch.optim.Muon(copies, lr=RATE, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    ours.grad_scale, ours.found_inf = torch.tensor(4.0), torch.tensor(0.0)
    for _ in range(3):
        for matrix, copied in zip(matrices, copies, strict=True):
            matrix.grad = torch.randn_like(matrix)
            copied.grad = matrix.grad / 4
        ours.step()
        torchs.step()
    # torch computes in bfloat16, which has 8 bits: 0.01 off in each of three updates of size 0.2 * 24**0.5 * RATE
    bound = 3 * 0.01 * 24**0.5 * 0.2 * RATE * (1 if dtype == torch.bfloat16 else 3)
    for matrix, copied in zip(matrices, copies, strict=True):
        torch.testing.assert_close(matrix, copied, rtol=0, atol=bound)


@pytest.mark.parametrize("shape", [(3, 16, 32), (3, 16, 31), (2, 48, 16), (1, 16, 16)])
def test_orthogonal_in_float32_equals_the_plain_iterations_in_float64(shape: tuple[int, ...]) -> None:
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = orthogonal(matrices.float())
    torch.testing.assert_close(found.double(), orthogonal(matrices), rtol=0, atol=1e-5)
    assert 0.6 < float(torch.linalg.svdvals(found).min()) <= float(torch.linalg.svdvals(found).max()) < 1.3


def test_matrices_that_are_many_are_updated_in_parts_of_bounded_size(monkeypatch: pytest.MonkeyPatch) -> None:
    gradients = torch.randn(5, 4, 8)
    updates = []
    for together in (1, 64, 1 << 24):
        monkeypatch.setattr(muon, "TOGETHER", together)
        sizes: list[int] = []
        monkeypatch.setattr(muon, "orthogonal", lambda x, sizes=sizes: sizes.append(len(x)) or orthogonal(x))
        matrices = [torch.zeros(4, 8, requires_grad=True) for _ in gradients]
        for matrix, gradient in zip(matrices, gradients, strict=True):
            matrix.grad = gradient.clone()
        optimizer = Muon([{"params": matrices, "lr": RATE, "weight_decay": 0.0}], torch.float32)
        optimizer.grad_scale, optimizer.found_inf = torch.tensor(1.0), torch.tensor(0.0)
        optimizer.step()
        updates.append(torch.stack([matrix.detach() for matrix in matrices]))
        assert sizes == {1: [1] * 5, 64: [2, 2, 1], 1 << 24: [5]}[together]
    torch.testing.assert_close(updates[0], updates[2], rtol=0, atol=1e-6)
    torch.testing.assert_close(updates[1], updates[2], rtol=0, atol=1e-6)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_moments_that_are_stored_and_loaded_continue_in_the_same_way(optimizer: str) -> None:
    settings = TrainSettings(optimizer=optimizer, mapper_lr=1e-4, lr=2e-4)
    one = make_model("mlp", torch.float32)
    first = Optimizer(one, settings)

    def step(made: Optimizer, seed: int) -> None:
        torch.manual_seed(seed)
        for parameter in made.parameters.values():
            parameter.grad = torch.randn_like(parameter)
        made.step(RATE, torch.tensor(1.0), torch.tensor(False))

    step(first, 0)
    other = copy.deepcopy(one)
    second = Optimizer(other, settings)
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
