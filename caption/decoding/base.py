"""What all decoding strategies share: their options, where captions end, and the way from tokens to text.

B images, n captions of each, G images at a time, k rows of each, R rows, W columns of tokens, V vocabulary.
"""

from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import torch

from clipcap.caption.decoding.loop import Choice, TokenDecoder, run_loop
from clipcap.caption.decoding.options import LONGEST, DecodeOptions
from clipcap.caption.decoding.reader import Reader
from clipcap.caption.decoding.rules import Ending
from clipcap.train.model.captioning import ClipCapModel

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

AT_ONCE = 32  # images that are captioned at the same time, by default


class Strategy(TokenDecoder):
    """Chooses captions with three verbs, which the loop calls: `reset`, `add` and `update`.

    An object keeps the state of the images that it captions, so it decodes for one caller at a time.

    Args:
        options: what was asked for.

    Attributes:
        own_options: names of the `DecodeOptions` that this strategy alone uses. Setting one selects the strategy.
        longest: default limit of a caption in tokens.
        reader: how the model reads prefixes and tokens.
        captions_of: the captions of images that have left, by their numbers: their tokens, best first.

    Raises:
        UsageError: the strategy cannot honour an option.
    """

    own_options: ClassVar[frozenset[str]] = frozenset()
    rows_per_image: int = 1
    longest: ClassVar[int] = LONGEST
    reader: ClassVar[type[Reader]] = Reader

    # Of the images that are captioned.
    tokenizer: "PreTrainedTokenizerBase"
    ending: Ending
    captions_of: dict[int, list[list[int]]]

    def __init__(self, options: DecodeOptions | None = None) -> None:
        self.options = options or DecodeOptions()

    def captions(
        self,
        model: ClipCapModel,
        embedding: torch.Tensor,
        tokenizer: "PreTrainedTokenizerBase",
        at_once: int = AT_ONCE,
    ) -> list[list[str]]:
        """Choose n captions for each embedding, as `decode` does.

        Returns:
            Their texts, without end-of-text, and cut after the stop text.
        """
        ranked = self.decode(model, embedding, tokenizer, at_once)
        return [[self.text(tokens, tokenizer) for tokens in captions] for captions in ranked]

    @torch.no_grad()
    def decode(
        self,
        model: ClipCapModel,
        embedding: torch.Tensor,
        tokenizer: "PreTrainedTokenizerBase",
        at_once: int = AT_ONCE,
    ) -> list[list[list[int]]]:
        """Choose n captions for each embedding.

        Args:
            model: in evaluation mode.
            embedding: float (B, d) or (B, t, d), on any device.
            tokenizer: of the language model.
            at_once: how many images are captioned at the same time, at most. It changes no caption.

        Returns:
            B lists of n distinct captions, best first: their tokens, with the end-of-text that ends them, if one does.
            There are fewer than n where the model has no more to say.
        """
        self.tokenizer, self.ending = tokenizer, self.make_ending(model, tokenizer)
        self.captions_of = {}
        self.search(model, embedding, at_once)
        return [self.captions_of[image] for image in range(len(embedding))]

    def search(self, model: ClipCapModel, embedding: torch.Tensor, at_once: int) -> None:
        """Fill `captions_of`: run the loop once over all images."""
        self.run(model, embedding, range(len(embedding)), at_once)

    def run(self, model: ClipCapModel, embedding: torch.Tensor, images: Sequence[int], at_once: int) -> None:
        """Run the loop over images, given by their rows in `embedding`."""
        run_loop(self.reader(model, self.rows_per_image), embedding, images, self, self.max_tokens(model), at_once)

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

    Rows that have ended are filled up with end-of-text until the last one of their image ends.

    Attributes:
        images: the images that are there, by their numbers.
        limit: the longest caption.
        open: bool (R), rows that have not ended.
        lengths: int64 (R), tokens of each row, without those that fill it up.
    """

    images: list[int]
    limit: int
    open: torch.Tensor
    lengths: torch.Tensor

    @abstractmethod
    def pick(self, tokens: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        """The next token of each row, int64 (R), on the device of the logits.

        Arguments are those of `update`. What is picked for a row that has ended is not used.
        """

    @abstractmethod
    def finish(self, image: int, rows: list[list[int]], places: range) -> None:
        """Take the captions of an image that leaves.

        Args:
            image: its number.
            rows: the tokens of its k rows.
            places: of these rows among all.
        """

    def keep(self, rows: torch.Tensor) -> None:
        """Keep the state of these rows alone, int64 (R')."""
        self.open, self.lengths = self.open[rows], self.lengths[rows]

    def reset(self, device: torch.device, limit: int) -> None:
        """Begin, with no row."""
        self.images, self.limit = [], limit
        self.open = torch.empty(0, dtype=torch.bool, device=device)
        self.lengths = torch.empty(0, dtype=torch.long, device=device)

    def add(self, images: Sequence[int]) -> None:
        """Add rows that are empty and open."""
        rows = len(images) * self.rows_per_image
        self.images += images
        self.open = torch.cat([self.open, self.open.new_ones(rows)])
        self.lengths = torch.cat([self.lengths, self.lengths.new_zeros(rows)])

    def update(self, tokens: torch.Tensor, ages: Sequence[int], logits: torch.Tensor) -> Choice:
        """Append the token that is picked to the rows that are open."""
        k = self.rows_per_image
        picked = torch.where(self.open, self.pick(tokens, logits), self.ending.end)
        texts = torch.cat([tokens, picked[:, None]], dim=1)
        self.lengths = self.lengths + self.open
        self.open = self.open & ~self.ending(texts)
        goes_on = self.open.view(-1, k).any(dim=1).tolist()
        stay = [i for i, age in enumerate(ages) if goes_on[i] and age + 1 < self.limit]
        if len(stay) == len(ages):
            return Choice(picked)
        for i in sorted({*range(len(ages))} - {*stay}):
            places = range(i * k, (i + 1) * k)
            found = texts[places.start : places.stop, texts.shape[1] - ages[i] - 1 :].tolist()
            lengths = self.lengths[places.start : places.stop].tolist()
            self.finish(self.images[i], [row[:length] for row, length in zip(found, lengths, strict=True)], places)
        rows = torch.tensor([i * k + j for i in stay for j in range(k)], dtype=torch.long, device=picked.device)
        self.images = [self.images[i] for i in stay]
        self.keep(rows)
        return Choice(picked[rows], rows, stay)
