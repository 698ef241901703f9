"""How far a run is, and what a checkpoint keeps of it besides the weights, so that it can go on."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from clipcap.data.errors import CheckpointError, one_line
from clipcap.train.engine.step import Engine, LossScale
from clipcap.train.model.checkpoint import read_state


@dataclass(kw_only=True)
class Position:
    """How far a run is. With the weights and the optimiser, all that going on needs.

    Attributes:
        step: optimiser steps done.
        epoch: the epoch that the next step is in, from 0.
        batch: batches of this epoch that are done.
        best: the lowest validation loss so far.
        loss_sum, loss_tokens: of the steps since the last line of metrics.
        stale: epochs since the validation loss was lowest.
        parts: into how many a batch is cut; see `Engine`.
        loss_scale, good: see `LossScale`.
    """

    step: int = 0
    epoch: int = 0
    batch: int = 0
    best: float | None = None
    loss_sum: float = 0.0
    loss_tokens: int = 0
    stale: int = 0
    parts: int = 0
    loss_scale: float = 1.0
    good: int = 0


def training_state(engine: Engine, position: Position) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """What `restore` needs: the optimiser's moments by the parameters' names, on the CPU, and the position."""
    scale = engine.loss_scale
    position.parts, position.loss_scale, position.good = engine.parts, scale.scale, scale.good
    tensors = {}
    for name, parameter in engine.parameters.items():
        for key, value in engine.optimizer.state.get(parameter, {}).items():
            tensors[f"{key}.{name}"] = value.detach().cpu()
    return tensors, asdict(position)


def restore(checkpoint: Path, engine: Engine) -> Position:
    """Bring an engine to where it was when the checkpoint was written, but for the weights.

    Raises:
        CheckpointError: its state is damaged, or of a model of another shape.
    """
    tensors, state = read_state(checkpoint)
    try:
        moments = {
            index: {key: tensors[f"{key}.{name}"] for key in ("step", "exp_avg", "exp_avg_sq")}
            for index, name in enumerate(engine.parameters)
            if f"step.{name}" in tensors
        }
        groups = engine.optimizer.state_dict()["param_groups"]
        engine.optimizer.load_state_dict({"state": moments, "param_groups": groups})
        position = Position(**state)
        engine.parts = position.parts
        engine.loss_scale = LossScale(position.loss_scale, position.good)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        fact = f"the training state in {checkpoint} is damaged ({one_line(error)})"
        raise CheckpointError(f"{fact}; start again with --overwrite") from error
    return position
