"""The settings of a training run, and the schedule of its learning rate.

The mapper's own knobs stand in its file (train/mappers/) and are given as `mapper_options`.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Self

from clipcap.data.errors import UsageError
from clipcap.data.metrics import METRICS
from clipcap.data.pretrained.device import PRECISIONS
from clipcap.data.settings import Parameter, Settings, changed_values, device_setting, parameters_of, setting
from clipcap.data.settings import stored_values as _stored_values
from clipcap.train.mappers import MAPPERS, knobs
from clipcap.train.mappers.base import GROUP as MAPPER

MODEL, TRAINING, MEMORY, OUTPUT = "Language model", "Training", "Memory and speed", "Output"


@dataclass(frozen=True, kw_only=True)
class TrainSettings(Settings):
    """Settings of a run. The help of each field describes it.

    Attributes:
        mapper_options: the mapper's own knobs that differ from their defaults, by name.

    Raises:
        UsageError: a value is not allowed, or the mapper has no such knob.
    """

    mapper: str = setting(
        "mlp", "Mapper, which turns an embedding into a prefix.", group=MAPPER, choices=tuple(MAPPERS)
    )
    prefix_length: int = setting(10, "Positions of the prefix.", group=MAPPER, minimum=1)
    mapper_options: Mapping[str, Any] = field(default_factory=dict)

    lm: str = setting(
        "gpt2",
        "GPT-2 of any size: its name, a folder that transformers saved, or demo; new:6x384 makes one of 6 layers and "
        "width 384, which learns from the captions alone.",
        group=MODEL, metavar="MODEL",
    )  # fmt: skip
    tune: str = setting(
        "all",
        "Which weights of GPT-2 train: all, none, first+last (first and last block, embeddings and final norm), last:N "
        "(last N blocks and final norm) or from:N (all but the first N blocks).",
        group=MODEL, pattern=r"all|none|first\+last|(last|from):\d+", metavar="WHICH",
    )  # fmt: skip
    dropout: float | None = setting(
        None, "Dropout in GPT-2. Default: GPT-2's own, 0.1.", group=MODEL, minimum=0, below=1
    )
    init: str = setting(
        "",
        "Checkpoint to start from, mapper and GPT-2: one of clipcap-train, or a file of rmokady, jmisilo or Lahdhirim. "
        "Default: a fresh mapper and the GPT-2 of `lm`.",
        group=MODEL, metavar="CHECKPOINT",
    )  # fmt: skip

    encoder: str = setting(
        "",
        "Encoder whose embeddings to train on, by its name in clipcap-inspect, where the cache has those of several. "
        "Default: the first.",
        group=TRAINING, metavar="NAME",
    )  # fmt: skip
    epochs: int = setting(10, "Passes over all captions.", group=TRAINING, minimum=1)
    batch_size: int = setting(40, "Captions in a step.", group=TRAINING, minimum=1)
    sampling: str = setting(
        "image",
        "image shuffles images, and the captions of an image share one prefix. caption shuffles single captions, "
        "which is slower and learns a little more from each.",
        group=TRAINING, choices=("image", "caption"),
    )  # fmt: skip
    optimizer: str = setting(
        "adamw",
        "adamw, or muon for the matrices within the mapper and GPT-2, with AdamW for the rest; muon is for models that "
        "learn from scratch.",
        group=TRAINING, choices=("adamw", "muon"),
    )  # fmt: skip
    lr: float = setting(2e-5, "Highest learning rate.", group=TRAINING, above=0)
    mapper_lr: float | None = setting(
        None, "Highest learning rate of the mapper. Default: that of `lr`.", group=TRAINING, above=0
    )
    warmup: float = setting(
        0.05,
        "Fraction of all steps in which the learning rate rises; a value of 1 or more is a number of steps.",
        group=TRAINING, minimum=0,
    )  # fmt: skip
    schedule: str = setting(
        "linear",
        "How the learning rate falls after warm-up: linear or cosine to zero, or constant.",
        group=TRAINING, choices=("linear", "cosine", "constant"),
    )  # fmt: skip
    weight_decay: float = setting(
        0.0, "Weight decay for matrices; biases and norms have none.", group=TRAINING, minimum=0
    )
    ema: float = setting(
        0.0,
        "Average the weights over the steps: the share of the average that a step keeps, such as 0.998. The average is "
        "what is validated, and what checkpoints hold. 0 takes the weights themselves.",
        group=TRAINING, minimum=0, below=1,
    )  # fmt: skip
    label_smoothing: float = setting(
        0.0, "Share of each target's probability that is spread over all tokens.", group=TRAINING, minimum=0, below=1
    )
    subset: float = setting(
        1.0, "Fraction of the training images to train on, drawn by `seed`.", group=TRAINING, above=0, maximum=1
    )
    max_caption_tokens: int = setting(
        0, "Cut captions to this many tokens. 0 keeps as many as GPT-2 has positions for.", group=TRAINING, minimum=0
    )
    metric: str = setting(
        "loss",
        "What chooses the best checkpoint: loss is the validation loss; bleu (BLEU-4), rouge (ROUGE-L) and cider "
        "(CIDEr-D) score greedy captions of the validation images, made while the next epoch trains.",
        group=TRAINING, choices=("loss", *METRICS),
    )  # fmt: skip
    patience: int = setting(
        0,
        "End the run after this many epochs without a lower validation loss, or a higher score of `metric`. 0 runs all "
        "epochs.",
        group=TRAINING, minimum=0,
    )  # fmt: skip
    seed: int = setting(
        0,
        "Seed of the mapper's first weights, of the order of captions and of dropout.",
        group=TRAINING, minimum=0, maximum=(1 << 32) - 1,
    )  # fmt: skip

    precision: str = setting(
        "auto",
        "Precision of the computation. auto takes bf16 where the device has it, fp16 on a GPU without it, else fp32.",
        group=MEMORY, choices=("auto", *PRECISIONS),
    )  # fmt: skip
    device: str = device_setting(MEMORY)
    accumulate: int = setting(
        0,
        "Micro-batches that a step is cut into, one after the other. 0 takes as few as memory allows.",
        group=MEMORY, minimum=0,
    )  # fmt: skip
    stream: bool | None = setting(
        None,
        "Read embeddings in blocks as they are needed, instead of all at the start. Default: only if they would take "
        "more than half of the free memory.",
        group=MEMORY,
    )  # fmt: skip

    log_to: str | None = setting(
        None,
        "Tracker that gets the metrics besides metrics.jsonl: tensorboard or wandb. Default: none.",
        group=OUTPUT, metavar="TRACKER", stored=False,
    )  # fmt: skip

    def __post_init__(self) -> None:
        super().__post_init__()
        if math.isinf(self.lr) or math.isinf(self.warmup):
            raise UsageError(f"`lr` and `warmup` must be finite, not {self.lr} and {self.warmup}")
        own = {parameter.name: parameter.setting for parameter in knobs(self.mapper)}
        for name, value in self.mapper_options.items():
            if name not in own:
                raise UsageError(
                    f"`mapper` {self.mapper} has no `{name}`; it has {', '.join(own) or 'no settings of its own'}"
                )
            own[name].check(flat_name(name), value)

    @classmethod
    def from_flat(cls, values: Mapping[str, Any]) -> Self:
        """Build settings from values among which the mapper's knobs stand under their flat names.

        Knobs that only other mappers have are ignored: runs of early versions stored all of them.

        Raises:
            UsageError: a value is not allowed.
            TypeError: there is no such setting.
        """
        values = dict(values)
        chosen = values.get("mapper", cls.mapper)
        known = {flat_name(parameter.name) for kind in MAPPERS for parameter in knobs(kind)}
        own = {flat_name(parameter.name): parameter.name for parameter in knobs(chosen)}
        given = {name: values.pop(name) for name in known & set(values)}
        options = {own[name]: value for name, value in given.items() if name in own}
        return cls(**values, mapper_options=options)

    def flat(self) -> dict[str, Any]:
        """What is stored of the settings: one dict, with the mapper's knobs under their flat names."""
        own = {
            flat_name(parameter.name): self.mapper_options.get(parameter.name, parameter.default)
            for parameter in knobs(self.mapper)
        }
        return {**_stored_values(self), **own}

    def changed(self) -> dict[str, Any]:
        """The settings that differ from their defaults, with the mapper's knobs under their flat names."""
        return {**changed_values(self), **{flat_name(name): value for name, value in self.mapper_options.items()}}

    def warmup_steps(self, total: int) -> int:
        """Warm-up steps of a run of `total` steps. A fraction scales with the data, where a fixed number would not."""
        steps = round(self.warmup * total) if self.warmup < 1 else int(self.warmup)
        return min(steps, total)


def flat_name(knob: str) -> str:
    """The name of a mapper's knob beside the other settings: its own, unless a setting has that name already."""
    taken = TrainSettings.__dataclass_fields__
    return f"mapper_{knob}" if knob in taken else knob


def option_parameters() -> list[Parameter]:
    """The parameters of a run, as options of the command: those of `TrainSettings`, and the knobs of all mappers.

    A knob that several mappers have is one option, so they must declare it alike. Its help names the mappers.
    """
    kinds: dict[str, list[str]] = {}
    own: dict[str, Parameter] = {}
    for kind in MAPPERS:
        for knob in knobs(kind):
            name = flat_name(knob.name)
            parameter = replace(knob, name=name)
            assert own.setdefault(name, parameter) == parameter, f"two mappers declare the knob {name} differently"
            kinds.setdefault(name, []).append(kind)
    for name, parameter in own.items():
        text = f"{parameter.setting.help.removesuffix('.')} ({', '.join(kinds[name])})."
        own[name] = replace(parameter, setting=replace(parameter.setting, help=text))
    settings = parameters_of(TrainSettings)
    return [*settings[:2], *own.values(), *settings[2:]]


def lr_factor(step: int, warmup: int, total: int, schedule: str = "linear") -> float:
    """The fraction of the highest learning rate that a step uses: a linear rise, then the schedule.

    `linear` falls to 0 at `total`, as transformers' `get_linear_schedule_with_warmup`, with which ClipCap trains, but
    no step has a rate of 0; `cosine` is half a wave (SGDR, arXiv:1608.03983).

    Args:
        step: from 0.
        warmup: steps of the rise.
        total: steps of the run.
        schedule: `linear`, `cosine` or `constant`.
    """
    if step < warmup:
        return (step + 1) / warmup
    left = (total - step) / max(1, total - warmup)
    if schedule == "constant":
        return 1.0
    return left if schedule == "linear" else (1 - math.cos(math.pi * left)) / 2
