"""What a checkpoint keeps besides the weights, so that a run resumes as if it had not stopped, and its form on disk.

    training_state.json          version, the loop's state, and the numbers of the engine's state
    training_state.safetensors   the optimiser's moments, such as `exp_avg.clip_project.model.0.weight`; with `ema` also
                                 the weights that train, `weight.clip_project.model.0.weight`, whose average is in
                                 model.safetensors

The keys in the JSON file are older than the names in the code; `_KEYS` has both.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from clipcap.data.errors import CheckpointError, UsageError, one_line
from clipcap.data.settings import check_type
from clipcap.train.model.checkpoint import check_version, read_state

VERSION = 1
# Key in training_state.json -> part of the state, and name there.
_KEYS = {
    **{name: ("loop", name) for name in ("step", "epoch", "batch", "best", "loss_sum", "loss_tokens")},
    "stale": ("loop", "epochs_since_best"),
    "parts": ("engine", "micro_batches"),
    "loss_scale": ("engine", "loss_scale"),
    "good": ("engine", "good_steps"),
}
# The types of the values. All are finite, and none is negative but scores and losses.
_TYPES: dict[str, Any] = {
    **dict.fromkeys(("step", "epoch", "batch", "loss_tokens", "stale", "parts", "good"), int),
    **dict.fromkeys(("loss_sum", "loss_scale"), float),
    **dict.fromkeys(("best", "best_score", "score"), float | None),
    "score_step": int | None,
}
# Keys that only runs with a `metric` other than loss have.
_SCORE_KEYS = ("best_score", "score_step", "score")

_LARGEST = 1 << 60

State = dict[str, dict[str, Any]]


@dataclass(kw_only=True)
class TrainState:
    """How far the loop is.

    Attributes:
        step: optimiser steps done.
        epoch: the epoch that the next step belongs to, from 0.
        batch: batches of this epoch that are done.
        best: the lowest validation loss so far, in nats a token; None before the first validation.
        loss_sum, loss_tokens: the summed loss and the number of tokens since the last line of metrics.jsonl.
        epochs_since_best: epochs since the validation loss was lowest, or the score of `metric` highest.
        best_score: the highest score so far that was decided on; None before the first one, and with `metric` loss.
        score_step: the step after which the last epoch ended, if its score was not decided on yet.
        score: that score, if it is there already.
    """

    step: int = 0
    epoch: int = 0
    batch: int = 0
    best: float | None = None
    loss_sum: float = 0.0
    loss_tokens: int = 0
    epochs_since_best: int = 0
    best_score: float | None = None
    score_step: int | None = None
    score: float | None = None


def to_files(state: State) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Return the content of both files for a trainer's `state_dict()`."""
    numbers = {key: state[part][name] for key, (part, name) in _KEYS.items()}
    loop = state["loop"]
    if loop["best_score"] is not None or loop["score_step"] is not None:
        numbers.update({key: loop[key] for key in _SCORE_KEYS})
    return state["engine"]["tensors"], {"version": VERSION, **numbers}


def from_files(checkpoint: Path) -> State:
    """Read both files of a checkpoint, and return what a trainer's `load_state_dict` takes.

    Raises:
        CheckpointError: they are missing, damaged, or of an unknown version.
    """
    tensors, numbers = read_state(checkpoint)
    check_version(checkpoint / "training_state.json", numbers.get("version", 1), VERSION)
    state: State = {"loop": {}, "engine": {"tensors": tensors}}
    for key, (part, name) in _KEYS.items():
        if key not in numbers:
            raise damaged(checkpoint, KeyError(key))
        state[part][name] = numbers[key]
    state["loop"].update({key: numbers[key] for key in _SCORE_KEYS if key in numbers})
    try:
        for key, kind in _TYPES.items():
            _check(key, numbers.get(key), kind)
    except UsageError as error:
        raise damaged(checkpoint, ValueError(str(error).replace("`", ""))) from error
    return state


def _check(key: str, value: Any, kind: Any) -> None:
    """Raise UsageError where a number of training_state.json is of another type, not finite or negative."""
    check_type(key, value, kind)
    bounds = (0, _LARGEST) if kind in (int, int | None) else (-_LARGEST, _LARGEST)
    if value is not None and not bounds[0] <= value <= bounds[1]:  # nor is NaN
        raise UsageError(f"`{key}` is {str(value)[:60]}")


def damaged(checkpoint: Path, error: Exception) -> CheckpointError:
    """Return the error for a training state that cannot be resumed from."""
    fact = f"the training state in {checkpoint} is damaged ({type(error).__name__}: {one_line(error)})"
    return CheckpointError(f"{fact}; start again with `overwrite`")
