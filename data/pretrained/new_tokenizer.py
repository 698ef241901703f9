"""Trains a tokenizer on the captions of a dataset, for languages and domains that no GPT-2 knows: `new:5000`."""

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

from clipcap.data.errors import UsageError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

NEW = "new:"  # how a tokenizer to be trained begins, before its number of tokens
END = "<|endoftext|>"
SMALLEST = 257  # a token for each byte, and the end of text


def is_new(name: str) -> bool:
    """Whether the name of a tokenizer asks for a new one."""
    return name.startswith(NEW)


def new_size(name: str) -> int:
    """Return the number of tokens in `new:5000`.

    Raises:
        UsageError: it is no number, or too small.
    """
    found = re.fullmatch(re.escape(NEW) + r"(\d{1,7})", name)
    if found is None or int(found[1]) < SMALLEST:
        raise UsageError(f"`tokenizer` {name}: give a number of tokens from {SMALLEST}, such as {NEW}5000")
    return int(found[1])


def train_tokenizer(captions: Iterable[str], size: int) -> "PreTrainedTokenizerFast":
    """Train a byte-level BPE, as GPT-2 has it (Radford et al. 2019), whose last token is end-of-text.

    The same captions give the same tokenizer, in any order.

    Args:
        captions: texts to train on; runs of white space count as one space, as in `encode_captions`.
        size: number of tokens at most; fewer if the captions do not have as many.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size - 1, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    bpe.train_from_iterator((" ".join(caption.split()) for caption in captions), trainer)
    return PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token=END, bos_token=END)
