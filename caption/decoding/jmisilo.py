"""Decoding as jmisilo/clip-gpt-captioning does it, for that system's checkpoints."""

from typing import TYPE_CHECKING

import torch

from clipcap.caption.decoding.greedy import Greedy
from clipcap.caption.decoding.options import DecodeOptions
from clipcap.caption.decoding.reader import Reader
from clipcap.data.errors import UsageError
from clipcap.train.foreign.jmisilo import JmisiloModel

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class _AddedPositions(Reader):
    """GPT-2 whose position embeddings are added to the inputs by hand, although GPT-2 adds them again.

    Their first step adds the positions to the beginning of the text in place, so that every later step finds them there
    and adds them once more. So the first logits come from one reading of the beginning, and the keys and values from
    another.
    """

    @property
    def room(self) -> int:
        """The number of tokens that fit behind a beginning-of-text token and a prefix."""
        return super().room - 1

    def read_prefix(self, embedding: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
        """Read a beginning-of-text token and the prefix."""
        assert isinstance(self.model, JmisiloModel)
        start = self.model.start(embedding)
        logits = self.read_inputs(start)[1]
        layers = self.read_inputs(start + self.model.gpt.transformer.wpe.weight[: start.shape[1]])[0]
        return layers, logits

    def embed(self, inputs: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Add the embeddings of positions twice."""
        return super().embed(inputs + self.model.gpt.transformer.wpe(positions), positions)


class JmisiloGreedy(Greedy):
    """`Net.forward` of their src/model/model.py: greedy, at most 40 tokens, and a capital first."""

    longest = 40
    reader = _AddedPositions

    def __init__(self, options: DecodeOptions | None = None) -> None:
        super().__init__(options)
        if self.options.stop is not None or self.options.repetition_penalty != 1:
            raise UsageError("jmisilo's decoding has neither `stop` nor `repetition_penalty`; leave them out")

    def text(self, tokens: list[int], tokenizer: "PreTrainedTokenizerBase") -> str:
        """The text of a caption without its last token, which they drop even where it is not end-of-text."""
        text = str(tokenizer.decode(tokens[:-1], clean_up_tokenization_spaces=False)).strip()
        return text[:1].upper() + text[1:]
