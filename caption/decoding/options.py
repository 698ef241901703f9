"""The options of decoding. This module imports nothing heavy: the command line makes its options from it."""

from dataclasses import dataclass

from clipcap.data.errors import UsageError
from clipcap.data.settings import Settings, setting

LONGEST = 67  # tokens, as in ClipCap's own predict.py
GROUP = "Decoding"


@dataclass(frozen=True, kw_only=True)
class DecodeOptions(Settings):
    """Options of a decoding strategy. A strategy raises UsageError for a value that it cannot honour.

    Raises:
        UsageError: a value is outside its bounds.
    """

    captions: int = setting(
        1, "Distinct captions for each image, best first; more than 1 needs beam or sample.",
        group=GROUP, minimum=1, spellings=("-n",),
    )  # fmt: skip
    max_tokens: int | None = setting(
        None,
        f"Longest caption, in tokens. Default: {LONGEST}, or the limit of the system that the checkpoint comes from.",
        group=GROUP, minimum=1,
    )  # fmt: skip
    stop: str | None = setting(
        None, "Text that ends a caption and stays in it, such as '.'. Default: only end-of-text ends a caption.",
        group=GROUP,
    )  # fmt: skip
    repetition_penalty: float = setting(
        1.0, "Above 1, tokens that the caption already holds become less likely (CTRL, arXiv:1909.05858). 1: off.",
        group=GROUP, above=0,
    )  # fmt: skip
    beams: int = setting(5, "Captions that beam search keeps at each step.", group=GROUP, minimum=1)
    length_penalty: float = setting(
        1.0,
        "Beam search divides a caption's log-probability by its length to this power: above 1 favours long captions, "
        "below 1 short ones.",
        group=GROUP, minimum=0,
    )  # fmt: skip
    temperature: float = setting(
        1.0, "Sampling divides the logits by it: below 1 favours likely tokens, above 1 evens the odds.",
        group=GROUP, above=0,
    )  # fmt: skip
    top_p: float = setting(
        1.0, "Sample from the likeliest tokens that together have this probability (nucleus, arXiv:1904.09751).",
        group=GROUP, above=0, maximum=1,
    )  # fmt: skip
    top_k: int = setting(0, "Sample from this many of the likeliest tokens. 0: all.", group=GROUP, minimum=0)
    seed: int = setting(0, "Seed of the random numbers of sampling.", group=GROUP)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.stop == "":
            raise UsageError("`stop` is empty; give the text that ends a caption, or leave it out")
