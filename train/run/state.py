"""How far a run is, and what a checkpoint keeps of it besides the weights, so that it can go on."""

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch

from clipcap.data.errors import CheckpointError, one_line
from clipcap.train.engine.step import Engine, LossScale
from clipcap.train.model.checkpoint import read_state


@dataclass(kw_only=True)
class TrainState:
    """How far the loop is.

    Attributes:
        step: optimiser steps done.
        epoch: the epoch that the next step belongs to, from 0.
        batch: batches of this epoch that are done.
        best: the lowest validation loss so far, in nats a token; None before the first validation.
        loss_sum, loss_tokens: the summed loss and the number of tokens since the last line of metrics.jsonl.
        epochs_since_best: epochs since the validation loss was lowest.
    """

    step: int = 0
    epoch: int = 0
    batch: int = 0
    best: float | None = None
    loss_sum: float = 0.0
    loss_tokens: int = 0
    epochs_since_best: int = 0


# Keys of training_state.json that differ from the names in the code.
_ON_DISK = {"epochs_since_best": "stale"}


def training_state(engine: Engine, state: TrainState) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """What `restore` needs: the optimiser's moments by the parameters' names, on the CPU, and the loop's state."""
    tensors = {}
    for name, parameter in engine.parameters.items():
        for key, value in engine.optimizer.state.get(parameter, {}).items():
            tensors[f"{key}.{name}"] = value.detach().cpu()
    content = {_ON_DISK.get(name, name): value for name, value in asdict(state).items()}
    scale = engine.loss_scale
    return tensors, {**content, "parts": engine.micro_batches, "loss_scale": scale.scale, "good": scale.good_steps}


def restore(checkpoint: Path, engine: Engine) -> TrainState:
    """Bring an engine to where it was when the checkpoint was written, but for the weights.

    Raises:
        CheckpointError: its state is damaged, or of a model of another shape.
    """
    tensors, content = read_state(checkpoint)
    try:
        moments = {
            index: {key: tensors[f"{key}.{name}"] for key in ("step", "exp_avg", "exp_avg_sq")}
            for index, name in enumerate(engine.parameters)
            if f"step.{name}" in tensors
        }
        groups = engine.optimizer.state_dict()["param_groups"]
        engine.optimizer.load_state_dict({"state": moments, "param_groups": groups})
        engine.micro_batches = content["parts"]
        engine.loss_scale = LossScale(content["loss_scale"], content["good"])
        return TrainState(**{field.name: content[_ON_DISK.get(field.name, field.name)] for field in fields(TrainState)})
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        fact = f"the training state in {checkpoint} is damaged ({one_line(error)})"
        raise CheckpointError(f"{fact}; start again with --overwrite") from error
