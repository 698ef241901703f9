"""The settings of a run of stage 2, and how the learning rate moves through it."""

import math
import re
from dataclasses import dataclass

from clipcap.data.errors import UsageError

SAMPLINGS = ("image", "caption")
TUNING = re.compile(r"all|none|first\+last|(last|from):\d+")
PRECISIONS = ("fp32", "bf16", "fp16")
SCHEDULES = ("linear", "cosine", "constant")


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """Everything that decides the weights at the end, besides the cache. Stored in the run and in its checkpoints.

    Attributes:
        mapper: name of the mapper.
        prefix_length: positions of the prefix.
        clip_length: positions of the embedding inside the `transformer` mapper.
        layers: of the `transformer` and `encoder` mappers.
        heads: of the `encoder` mapper.
        mapper_dropout: in the `encoder` mapper.
        tanh: whether the `linear` mapper ends in one.
        lm: name or folder of the language model.
        init: the checkpoint whose weights the run begins with, mapper and language model; empty to begin afresh.
        tune: what of the language model trains; see train/model/tuning.py.
        dropout: in the language model; None for its own.
        subset: part of the training pictures that is trained on.
        max_caption_tokens: longer captions are cut; 0 for as long as the language model takes.
        epochs: passes over all captions.
        batch_size: captions in a step.
        sampling: `image` or `caption`; see train/corpus/sampler.py.
        accumulate: parts that a step's captions are cut into, one after the other; 0 for as few as memory allows.
        stream: whether embeddings are read from the cache in blocks as they are needed; None for where memory is short.
        lr: learning rate at its highest.
        warmup: below 1, the part of all steps in which it rises; from 1 on, the number of these steps.
        schedule: how it falls after that: `linear` or `cosine` to 0, or `constant`.
        weight_decay: of matrices, decoupled (AdamW, arXiv:1711.05101).
        label_smoothing: the part of each target's probability that is spread over all tokens.
        patience: epochs without a better validation loss after which the run ends; 0 for never.
        precision: `fp32`, `bf16` or `fp16`.
        seed: of the mapper's first weights, of the order of captions and of dropout.
    """

    mapper: str = "mlp"
    prefix_length: int = 10
    clip_length: int = 10
    layers: int = 8
    heads: int = 16
    mapper_dropout: float = 0.0
    tanh: bool = True
    lm: str = "gpt2"
    init: str = ""
    tune: str = "all"
    dropout: float | None = None
    subset: float = 1.0
    max_caption_tokens: int = 0
    epochs: int = 10
    batch_size: int = 40
    sampling: str = "image"
    accumulate: int = 0
    stream: bool | None = None
    lr: float = 2e-5
    warmup: float = 0.05
    schedule: str = "linear"
    weight_decay: float = 0.0
    label_smoothing: float = 0.0
    patience: int = 0
    precision: str = "fp32"
    seed: int = 0

    def __post_init__(self) -> None:
        if not TUNING.fullmatch(self.tune):
            raise UsageError(f"--tune {self.tune} is not known; use all, none, first+last, last:N or from:N")
        if self.sampling not in SAMPLINGS:
            raise UsageError(f"--sampling {self.sampling} is not known; use {', '.join(SAMPLINGS)}")
        if self.precision not in PRECISIONS:
            raise UsageError(f"--precision {self.precision} is not known; use auto, {', '.join(PRECISIONS)}")
        if self.schedule not in SCHEDULES:
            raise UsageError(f"--schedule {self.schedule} is not known; use {', '.join(SCHEDULES)}")
        for name in ("mapper_dropout", "dropout", "label_smoothing"):
            part = getattr(self, name)
            if part is not None and not 0 <= part < 1:
                raise UsageError(f"--{name.replace('_', '-')} must be from 0 to below 1, not {part}")
        if not 0 < self.subset <= 1:
            raise UsageError(f"--subset must be above 0 and at most 1, not {self.subset}")
        for name in ("weight_decay", "patience", "max_caption_tokens", "accumulate"):
            if not 0 <= getattr(self, name) < math.inf:
                raise UsageError(
                    f"--{name.replace('_', '-')} must be a number of at least 0, not {getattr(self, name)}"
                )
        for name in ("prefix_length", "clip_length", "layers", "heads", "epochs", "batch_size"):
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


def lr_factor(step: int, warmup: int, total: int, schedule: str = "linear") -> float:
    """The part of the highest learning rate that step `step`, from 0, uses: a linear rise, then the schedule.

    `linear` goes to 0 at `total`, as transformers' `get_linear_schedule_with_warmup`, which ClipCap trains with, but no
    step has a rate of 0; `cosine` is half a wave (SGDR, arXiv:1608.03983).
    """
    if step < warmup:
        return (step + 1) / warmup
    left = (total - step) / max(1, total - warmup)
    if schedule == "constant":
        return 1.0
    return left if schedule == "linear" else (1 - math.cos(math.pi * left)) / 2
