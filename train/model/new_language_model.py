"""Makes a GPT-2 with fresh weights, for languages and domains that no GPT-2 knows: `new:6x384`."""

import re
from typing import TYPE_CHECKING

from clipcap.data.errors import UsageError

if TYPE_CHECKING:
    from transformers import GPT2LMHeadModel, PreTrainedTokenizerBase

NEW = "new:"  # how a language model to be made begins, before its layers and width
HEAD_WIDTH = 64  # as in GPT-2 of every size
POSITIONS = 256  # several times the longest caption


def is_new(name: str) -> bool:
    """Whether the name of a language model asks for a new one."""
    return name.startswith(NEW)


def make_language_model(name: str, tokenizer: "PreTrainedTokenizerBase") -> "GPT2LMHeadModel":
    """Make a GPT-2 whose weights are drawn as those of GPT-2 were (Radford et al. 2019), by torch's random numbers.

    Args:
        name: `new:6x384`, for 6 layers of width 384, with heads of width 64.
        tokenizer: decides the number of tokens.

    Returns:
        The model in float32, on the CPU.

    Raises:
        UsageError: the name has another form, or the width is no multiple of 64.
    """
    from transformers import GPT2Config, GPT2LMHeadModel

    found = re.fullmatch(re.escape(NEW) + r"([1-9]\d{0,2})x([1-9]\d{0,4})", name)
    if found is None or int(found[2]) % HEAD_WIDTH:
        raise UsageError(f"`lm` {name}: give layers and a width that is a multiple of {HEAD_WIDTH}, as {NEW}6x384")
    layers, width = int(found[1]), int(found[2])
    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_positions=POSITIONS,
        n_embd=width,
        n_layer=layers,
        n_head=width // HEAD_WIDTH,
        bos_token_id=tokenizer.eos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return GPT2LMHeadModel(config)
