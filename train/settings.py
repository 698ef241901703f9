"""The settings of a run of stage 2, and how the learning rate moves through it."""

import math
from dataclasses import dataclass

from clipcap.data.errors import UsageError

TUNING = ("all", "none")


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """Everything that decides the weights at the end, besides the cache. Stored in the run and in its checkpoints.

    Attributes:
        mapper: name of the mapper.
        prefix_length: positions of the prefix.
        clip_length: positions of the embedding inside the `transformer` mapper.
        layers: of the `transformer` mapper.
        lm: name or folder of the language model.
        tune: `all`, or `none` of the language model.
        epochs: passes over all captions.
        batch_size: captions in a step.
        lr: learning rate at its highest.
        warmup: below 1, the part of all steps in which it rises; from 1 on, the number of these steps.
        precision: `fp32` or `bf16`.
        seed: of the mapper's first weights, of the order of captions and of dropout.
    """

    mapper: str = "mlp"
    prefix_length: int = 10
    clip_length: int = 10
    layers: int = 8
    lm: str = "gpt2"
    tune: str = "all"
    epochs: int = 10
    batch_size: int = 40
    lr: float = 2e-5
    warmup: float = 0.05
    precision: str = "fp32"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.tune not in TUNING:
            raise UsageError(f"--tune {self.tune} is not known; use {', '.join(TUNING)}")
        for name in ("prefix_length", "clip_length", "layers", "epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise UsageError(f"--{name.replace('_', '-')} must be at least 1, not {getattr(self, name)}")
        if not 0 < self.lr < math.inf:
            raise UsageError(f"--lr must be a number above 0, not {self.lr}")
        if not 0 <= self.warmup < math.inf:
            raise UsageError(f"--warmup must be a number of at least 0, not {self.warmup}")
        if not 0 <= self.seed < 1 << 32:
            raise UsageError(f"--seed must be from 0 to {(1 << 32) - 1}, not {self.seed}")

    def warmup_steps(self, total: int) -> int:
        """Steps of warm-up in a run of `total`: a part of it, since a small dataset never leaves a fixed number."""
        steps = round(self.warmup * total) if self.warmup < 1 else int(self.warmup)
        return min(steps, total)


def lr_factor(step: int, warmup: int, total: int) -> float:
    """The part of the highest learning rate that step `step`, from 0, uses: a linear rise, then linear to 0 at `total`.

    As transformers' `get_linear_schedule_with_warmup`, which ClipCap trains with, but no step has a rate of 0.
    """
    if step < warmup:
        return (step + 1) / warmup
    return (total - step) / max(1, total - warmup)
