"""Decoding strategies: how a caption is chosen among all that the model could say. One small class a strategy.

B embeddings, n captions of each, T tokens.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch

from clipcap.data.errors import UsageError
from clipcap.train.model import ClipCapModel

MAX_TOKENS = 67  # as ClipCap's own predict.py


class Strategy(Protocol):
    """Chooses captions."""

    def decode(self, model: ClipCapModel, embedding: torch.Tensor) -> torch.Tensor:
        """Choose n captions for each embedding.

        Args:
            model: in evaluation mode.
            embedding: float (B, d), on the model's device.

        Returns:
            int64 (B, n, T), best first; end-of-text at the end of a caption and behind it.
        """


@dataclass(frozen=True, kw_only=True)
class Greedy:
    """Always the likeliest next token.

    Attributes:
        max_tokens: the longest caption.
    """

    max_tokens: int = MAX_TOKENS

    def decode(self, model: ClipCapModel, embedding: torch.Tensor) -> torch.Tensor:
        """One caption for each embedding, int64 (B, 1, T)."""
        return model.continue_prefix(embedding, max_new_tokens=self.max_tokens)[:, None]


@dataclass(frozen=True, kw_only=True)
class Beam:
    """Beam search as transformers does it: the captions with the highest mean log-probability of a token.

    Attributes:
        max_tokens: the longest caption.
        beams: captions that are kept at each step.
        captions: how many of them to return, n.
    """

    max_tokens: int = MAX_TOKENS
    beams: int = 5
    captions: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.captions <= self.beams:
            raise UsageError(f"-n {self.captions} captions need as many beams; give --beams {self.captions}")

    def decode(self, model: ClipCapModel, embedding: torch.Tensor) -> torch.Tensor:
        """The best captions for each embedding, int64 (B, n, T)."""
        tokens = model.continue_prefix(
            embedding, max_new_tokens=self.max_tokens, num_beams=self.beams, num_return_sequences=self.captions
        )
        return tokens.view(len(embedding), self.captions, -1)


def _greedy(beams: int, captions: int, max_tokens: int) -> Strategy:
    if captions != 1:
        raise UsageError(f"greedy decoding has one caption, not {captions}; use --decode beam")
    return Greedy(max_tokens=max_tokens)


def _beam(beams: int, captions: int, max_tokens: int) -> Strategy:
    return Beam(max_tokens=max_tokens, beams=beams, captions=captions)


# A new strategy is its class and its line here: from what a person may ask for to the strategy.
STRATEGIES: dict[str, Callable[[int, int, int], Strategy]] = {
    "greedy": _greedy,
    "beam": _beam,
}


def choose_strategy(name: str, *, beams: int = 5, captions: int = 1, max_tokens: int = MAX_TOKENS) -> Strategy:
    """The strategy of that name.

    Args:
        name: one of `STRATEGIES`.
        beams: for `beam`.
        captions: of each embedding, n.
        max_tokens: the longest caption.

    Raises:
        UsageError: there is none of that name, or it cannot give so many captions.
    """
    if name not in STRATEGIES:
        raise UsageError(f"--decode {name} is not known; use {', '.join(STRATEGIES)}")
    if max_tokens < 1:
        raise UsageError(f"--max-tokens must be at least 1, not {max_tokens}")
    return STRATEGIES[name](beams, captions, max_tokens)
