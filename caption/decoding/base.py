"""What all decoding strategies share: their options, where captions end, and the way from tokens to text.

B images, n captions of each, R rows, T tokens so far, V vocabulary.
"""

from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar

import torch

from clipcap.caption.decoding.loop import Choice, Continuation, TokenDecoder, run_loop
from clipcap.caption.decoding.options import LONGEST, DecodeOptions
from clipcap.caption.decoding.rules import Ending
from clipcap.train.model.captioning import ClipCapModel

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Strategy(TokenDecoder):
    """Chooses captions with three verbs, which the loop calls: `reset`, `update` and `finalize`.

    An object keeps the state of the batch that it decodes, so it decodes one batch at a time.

    Args:
        options: what was asked for.

    Attributes:
        own_options: names of the `DecodeOptions` that this strategy alone uses. Setting one selects the strategy.
        rows_per_image: texts that are continued for each image at the same time.
        longest: default limit of a caption in tokens.
        continuation: how the model reads prefixes and tokens.

    Raises:
        UsageError: the strategy cannot honour an option.
    """

    own_options: ClassVar[frozenset[str]] = frozenset()
    rows_per_image: int = 1
    longest: ClassVar[int] = LONGEST
    continuation: ClassVar[type[Continuation]] = Continuation

    # Of the batch that is decoded.
    tokenizer: "PreTrainedTokenizerBase"
    ending: Ending

    def __init__(self, options: DecodeOptions | None = None) -> None:
        self.options = options or DecodeOptions()

    def captions(
        self, model: ClipCapModel, embedding: torch.Tensor, tokenizer: "PreTrainedTokenizerBase"
    ) -> list[list[str]]:
        """Choose n captions for each embedding, as `decode` does.

        Returns:
            Their texts, without end-of-text, and cut after the stop text.
        """
        ranked = self.decode(model, embedding, tokenizer)
        return [[self.text(tokens, tokenizer) for tokens in captions] for captions in ranked]

    @torch.no_grad()
    def decode(
        self, model: ClipCapModel, embedding: torch.Tensor, tokenizer: "PreTrainedTokenizerBase"
    ) -> list[list[list[int]]]:
        """Choose n captions for each embedding.

        Args:
            model: in evaluation mode.
            embedding: float (B, d) or (B, t, d), on the model's device.
            tokenizer: of the language model.

        Returns:
            B lists of n distinct captions, best first: their tokens, with the end-of-text that ends them, if one does.
            There are fewer than n where the model has no more to say.
        """
        self.tokenizer, self.ending = tokenizer, self.make_ending(model, tokenizer)
        return self.search(self.continuation(model, embedding), embedding, self.max_tokens(model))

    def search(self, prefixes: Continuation, embedding: torch.Tensor, max_tokens: int) -> list[list[list[int]]]:
        """Run the loop, once, with `rows_per_image` rows for each image.

        Args:
            prefixes: the model after it has read each image's prefix.
            embedding: as for `decode`.
            max_tokens: the longest caption.

        Returns:
            As `decode`.
        """
        images = torch.arange(len(embedding), device=embedding.device).repeat_interleave(self.rows_per_image)
        return run_loop(prefixes, images, self, max_tokens)

    def max_tokens(self, model: ClipCapModel) -> int:
        """The limit of a caption in tokens."""
        return self.options.max_tokens or self.longest

    def make_ending(self, model: ClipCapModel, tokenizer: "PreTrainedTokenizerBase") -> Ending:
        """The rule that says which texts have ended."""
        return Ending(model.end, self.options.stop, tokenizer)

    def text(self, tokens: list[int], tokenizer: "PreTrainedTokenizerBase") -> str:
        """The text of a caption."""
        text = str(tokenizer.decode(tokens, skip_special_tokens=True))
        if self.options.stop is not None and self.options.stop in text:
            text = text[: text.index(self.options.stop) + len(self.options.stop)]
        return text.strip()


class RowStrategy(Strategy):
    """A strategy that picks the next token of each row from that row alone.

    Rows that have ended are filled up with end-of-text until the last one ends.

    Attributes:
        open: bool (R), rows that have not ended.
        lengths: int64 (R), tokens of each row, without those that fill it up.
    """

    open: torch.Tensor
    lengths: torch.Tensor

    @abstractmethod
    def pick(self, tokens: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        """The next token of each row, int64 (R), on the device of the logits.

        Args:
            tokens: int64 (R, T), the tokens so far.
            logits: float (R, V).
        """

    def reset(self, images: torch.Tensor, limit: int) -> None:
        """Begin with rows that are empty and open."""
        self.open = torch.ones_like(images, dtype=torch.bool)
        self.lengths = torch.zeros_like(images)

    def update(self, tokens: torch.Tensor, logits: torch.Tensor) -> Choice:
        """Append the token that is picked to the rows that are open."""
        picked = torch.where(self.open, self.pick(tokens, logits), self.ending.end)
        self.lengths = self.lengths + self.open
        self.open = self.open & ~self.ending(torch.cat([tokens, picked[:, None]], dim=1))
        return Choice(picked, done=not self.open.any())

    def rows(self, tokens: torch.Tensor) -> list[list[int]]:
        """The tokens of each row, int64 (R, T), without those that fill it up."""
        return [row[:length] for row, length in zip(tokens.tolist(), self.lengths.tolist(), strict=True)]
