"""Decoding as jmisilo/clip-gpt-captioning does it, for that system's checkpoints."""

from typing import TYPE_CHECKING

import torch
from transformers import DynamicCache

from clipcap.caption.decoding.greedy import Greedy
from clipcap.caption.decoding.loop import Continuation
from clipcap.caption.decoding.options import DecodeOptions
from clipcap.data.errors import UsageError
from clipcap.train.foreign.jmisilo import JmisiloModel

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class _AddedPositions(Continuation):
    """GPT-2 whose position embeddings are added to the inputs by hand, although GPT-2 adds them again.

    Their first step adds the positions to the beginning of the text in place, so that every later step finds them there
    and adds them once more. So the first logits come from one reading of the beginning, and the cache from another.
    """

    def _read_prefix(self, embedding: torch.Tensor) -> torch.Tensor:
        assert isinstance(self.model, JmisiloModel)
        start = self.model.start(embedding)
        logits = self._read(start)
        self.cache = DynamicCache(config=self.model.gpt.config)
        self._read(start + self._positions(start))
        return logits

    def _read(self, inputs: torch.Tensor) -> torch.Tensor:
        return super()._read(inputs + self._positions(inputs))

    def _positions(self, inputs: torch.Tensor) -> torch.Tensor:
        """The position embeddings of inputs, float (R, t, D), that follow what was read: float (t, D)."""
        begin = self.cache.get_seq_length()
        table: torch.Tensor = self.model.gpt.transformer.wpe.weight
        return table[begin : begin + inputs.shape[1]]


class JmisiloGreedy(Greedy):
    """`Net.forward` of their src/model/model.py: greedy, at most 40 tokens, and a capital first."""

    longest = 40
    continuation = _AddedPositions

    def __init__(self, options: DecodeOptions | None = None) -> None:
        super().__init__(options)
        if self.options.stop is not None or self.options.repetition_penalty != 1:
            raise UsageError("jmisilo's decoding has neither `stop` nor `repetition_penalty`; leave them out")

    def text(self, tokens: list[int], tokenizer: "PreTrainedTokenizerBase") -> str:
        """The text of a caption without its last token, which they drop even where it is not end-of-text."""
        text = str(tokenizer.decode(tokens[:-1], clean_up_tokenization_spaces=False)).strip()
        return text[:1].upper() + text[1:]
