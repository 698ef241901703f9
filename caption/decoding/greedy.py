"""Greedy decoding."""

import torch

from clipcap.caption.decoding.base import RowStrategy
from clipcap.caption.decoding.options import DecodeOptions
from clipcap.caption.decoding.rules import penalize_repetition
from clipcap.data.errors import UsageError


class Greedy(RowStrategy):
    """Takes the likeliest token at each step, as transformers' `generate` does with one beam."""

    def __init__(self, options: DecodeOptions | None = None) -> None:
        super().__init__(options)
        if self.options.captions != 1:
            fact = f"greedy decoding has one caption, not {self.options.captions}"
            raise UsageError(f"{fact}; use `decode` beam or sample")

    def pick(self, tokens: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        """The likeliest token of each row."""
        return penalize_repetition(logits.float(), tokens, self.options.repetition_penalty).argmax(dim=-1)

    def finish(self, image: int, rows: list[list[int]], places: range) -> None:
        """Take the one caption of an image."""
        self.captions_of[image] = rows
