"""The settings of a captioner: how its checkpoint and its encoder are loaded, and where and how it computes.

Imports nothing heavy: the command line makes its options from it.
"""

from dataclasses import dataclass
from typing import TypedDict

from clipcap.data.settings import Settings, device_setting, precision_setting, setting

DEFAULT_MODEL = "checkpoints/best"
MODEL, MEMORY, OUTPUT = "Model", "Memory and speed", "Output"


@dataclass(frozen=True, kw_only=True)
class CaptionerSettings(Settings):
    """Settings of a `Captioner`. The help of each field describes it.

    Raises:
        UsageError: a value is not allowed.
    """

    encoder: str | None = setting(
        None,
        "CLIP encoder to use when the checkpoint does not record one, as with files of other systems. Default: the one "
        "that the checkpoint records, or that the other system published.",
        group=MODEL, metavar="NAME",
    )  # fmt: skip
    pretrained: str | None = setting(
        None,
        "File or folder of the CLIP weights, if they moved. Default: the path in the checkpoint.",
        group=MODEL, metavar="PATH",
    )  # fmt: skip
    tokenizer: str | None = setting(
        None,
        "Tokenizer of a file of another system. Default: gpt2. A checkpoint of clipcap-train brings its own.",
        group=MODEL, metavar="NAME",
    )  # fmt: skip
    normalize: bool = setting(
        False,
        "Scale embeddings to length 1, for a file of another system that was trained on such embeddings, as rmokady's "
        "released RN50x4 transformer was.",
        group=MODEL,
    )  # fmt: skip
    heads: int | None = setting(
        None,
        "Attention heads of GPT-2 in a file of another system. Default: those of the published GPT-2 of its width.",
        group=MODEL, minimum=1,
    )  # fmt: skip
    batch_size: int = setting(32, "Inputs that are captioned together.", group=MEMORY, minimum=1)
    precision: str = precision_setting(MEMORY)
    device: str = device_setting(MEMORY)


class CaptionerChanges(TypedDict, total=False):
    """The fields of `CaptionerSettings` as keyword arguments, for type checkers."""

    encoder: str | None
    pretrained: str | None
    tokenizer: str | None
    normalize: bool
    heads: int | None
    batch_size: int
    precision: str
    device: str


class DecodeChanges(TypedDict, total=False):
    """The fields of `DecodeOptions` except `captions` as keyword arguments, for type checkers."""

    max_tokens: int | None
    stop: str | None
    repetition_penalty: float
    beams: int
    length_penalty: float
    temperature: float
    top_p: float
    top_k: int
    seed: int
