"""The optimisers of a run: AdamW for all weights, or Muon for the matrices within and AdamW for the rest.

Muon (muon.py) is for weights that start from nothing: pretrained ones were made by AdamW, and stay near their place
better with it. Embeddings, biases and norms are no matrices in its sense.

    gpt.transformer.wte, wpe, prefix_const, biases, norms   AdamW
    matrices of the blocks and of the mapper                Muon

Every group of weights has the rate of the step, times the ratio of its own highest rate to `lr`.
"""

from typing import Any

import torch
from torch import nn

from clipcap.train.engine.muon import Muon
from clipcap.train.model.captioning import ClipCapModel
from clipcap.train.settings import TrainSettings

MAPPER = "clip_project."  # how the names of the mapper's weights begin
_MOMENTS: dict[type, tuple[str, ...]] = {
    torch.optim.AdamW: ("step", "exp_avg", "exp_avg_sq"),
    Muon: ("momentum_buffer",),
}  # an optimiser's state of a parameter


class Optimizer:
    """Updates the weights of one model.

    Args:
        model: on `device`, with `requires_grad` set on the weights that train.
        settings: settings of the run.

    Attributes:
        parameters: the parameters that train, by name.
        optimizers: what updates them.
    """

    def __init__(self, model: ClipCapModel, settings: TrainSettings) -> None:
        self.parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        groups: dict[str, dict[tuple[float, float], list[nn.Parameter]]] = {"adamw": {}, "muon": {}}
        for name, parameter in self.parameters.items():
            ratio = (settings.mapper_lr or settings.lr) / settings.lr if name.startswith(MAPPER) else 1.0
            decay = settings.weight_decay if parameter.ndim > 1 else 0.0  # biases and norms do not decay
            kind = settings.optimizer if _is_matrix_within(name, parameter) else "adamw"
            groups[kind].setdefault((ratio, decay), []).append(parameter)
        by_kind: dict[str, list[dict[str, Any]]] = {
            kind: [
                {"params": parameters, "weight_decay": decay, "lr": settings.lr * ratio, "ratio": ratio}
                for (ratio, decay), parameters in by_ratio.items()
            ]
            for kind, by_ratio in groups.items()
        }
        self.optimizers: list[torch.optim.Optimizer] = []
        if by_kind["adamw"]:
            self.optimizers.append(torch.optim.AdamW(by_kind["adamw"], fused=True))
        if by_kind["muon"]:
            dtype = torch.bfloat16 if settings.precision == "bf16" else torch.float32
            self.optimizers.append(Muon(by_kind["muon"], dtype))

    def step(self, rate: float, divisor: torch.Tensor, bad: torch.Tensor) -> None:
        """Update all weights, and forget the gradients.

        Args:
            rate: learning rate of the step.
            divisor: one number, by which the gradients are divided first.
            bad: one bool; where it is true, everything stays as it is.
        """
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate * group["ratio"]
            # What torch.amp.GradScaler gives to a fused optimiser, which then divides, or skips the step, by itself.
            # The numbers stay on the device, so a GPU is not waited for.
            optimizer.grad_scale = divisor.float()  # type: ignore[attr-defined]
            optimizer.found_inf = bad.float()  # type: ignore[attr-defined]
            optimizer.step()
        self.forget_gradients()

    def forget_gradients(self) -> None:
        """Free the gradients."""
        for parameter in self.parameters.values():
            parameter.grad = None

    def moments(self) -> dict[str, torch.Tensor]:
        """Return the state of all weights: tensors on the CPU, such as `exp_avg.clip_project.model.0.weight`.

        As with torch's modules, they are not copies.
        """
        states = {parameter: state for optimizer in self.optimizers for parameter, state in optimizer.state.items()}
        return {
            f"{key}.{name}": value.detach().cpu()
            for name, parameter in self.parameters.items()
            for key, value in states.get(parameter, {}).items()
        }

    def load_moments(self, moments: dict[str, torch.Tensor]) -> None:
        """Take over what `moments` returned.

        Raises:
            KeyError, ValueError: something is missing, or does not have the shape of its parameter.
        """
        names = {parameter: name for name, parameter in self.parameters.items()}
        for optimizer in self.optimizers:
            keys = _MOMENTS[type(optimizer)]
            state: dict[int, dict[str, torch.Tensor]] = {}
            for index, parameter in enumerate(_parameters(optimizer)):
                name = names[parameter]
                if f"{keys[0]}.{name}" not in moments:  # it had no gradient yet
                    continue
                state[index] = {key: moments[f"{key}.{name}"] for key in keys}
                if any(value.shape != parameter.shape for key, value in state[index].items() if key != "step"):
                    raise ValueError(f"the moments of {name} have another shape than it")
            groups = optimizer.state_dict()["param_groups"]
            optimizer.load_state_dict({"state": state, "param_groups": groups})


def _parameters(optimizer: torch.optim.Optimizer) -> list[Any]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _is_matrix_within(name: str, parameter: nn.Parameter) -> bool:
    """Whether a parameter is a matrix that takes hidden numbers to hidden numbers; no embedding and no output layer."""
    within = name.startswith((MAPPER, "gpt.transformer.h."))
    return within and parameter.ndim == 2 and name.endswith("weight")  # learned positions of a mapper have other names
