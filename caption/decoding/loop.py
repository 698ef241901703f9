"""The decoding loop: it knows the model and its cache, and nothing of how tokens are chosen.

    embedding -> prefix -> GPT-2 -> logits (R, V) -> strategy -> next tokens (R)
                             ^                                         |
                             +-- cached keys, values of the rows <-----+

B images, R rows (the texts that are continued, one or more for each image), K positions of the prefix, T tokens so
far, D width, V vocabulary.
"""

import copy
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import cast

import torch
from transformers import DynamicCache

from clipcap.train.model.captioning import ClipCapModel


@dataclass(frozen=True)
class Choice:
    """How the rows go on.

    Attributes:
        tokens: int64 (R'), the token that is appended to each row.
        rows: int64 (R'), the row that each of them continues: rows may be repeated, reordered and left out. None
            stands for all rows as they are.
        done: whether the decoding is complete with these tokens.
    """

    tokens: torch.Tensor
    rows: torch.Tensor | None = None
    done: bool = False


class TokenDecoder(ABC):
    """Chooses tokens for the loop, which calls `reset`, then `update` for every token, then `finalize`."""

    @abstractmethod
    def reset(self, images: torch.Tensor, limit: int) -> None:
        """Begin.

        Args:
            images: int64 (R), the image that each row captions, on the model's device.
            limit: number of tokens after which the loop ends.
        """

    @abstractmethod
    def update(self, tokens: torch.Tensor, logits: torch.Tensor) -> Choice:
        """Choose how the rows go on.

        Args:
            tokens: int64 (R, T), the tokens of each row so far; T is 0 at first.
            logits: float (R, V), of the token that comes next.
        """

    @abstractmethod
    def finalize(self, tokens: torch.Tensor) -> list[list[list[int]]]:
        """The captions of each image, best first, as lists of tokens.

        Args:
            tokens: int64 (R, T), all rows at the end.
        """


class Continuation:
    """GPT-2 after it has read the prefix of each image, with the keys and values of all that it has read.

    Args:
        model: in evaluation mode.
        embedding: float (B, d) or (B, t, d), on the model's device.

    Attributes:
        logits: float (R, V), of the next token of each row; there is one row for each image at first.
    """

    def __init__(self, model: ClipCapModel, embedding: torch.Tensor) -> None:
        self.model = model
        self.cache = DynamicCache(config=model.gpt.config)
        self.logits = self._read_prefix(embedding)

    @property
    def room(self) -> int:
        """The number of positions that GPT-2 has left."""
        positions: int = self.model.gpt.config.n_positions
        return positions - self.cache.get_seq_length()

    def of_images(self, images: torch.Tensor) -> "Continuation":
        """A continuation of its own with one row for each entry of `images`, int64 (R)."""
        selected = copy.copy(self)
        selected.cache = copy.deepcopy(self.cache)
        _reorder(selected.cache, images)
        selected.logits = self.logits[images]
        return selected

    def advance(self, choice: Choice) -> None:
        """Read the chosen tokens, and compute the logits of those that follow."""
        if choice.rows is not None:
            _reorder(self.cache, choice.rows)
        self.logits = self._read(self.model.gpt.transformer.wte(choice.tokens[:, None]))

    def _read_prefix(self, embedding: torch.Tensor) -> torch.Tensor:
        return self._read(self.model.clip_project(embedding))

    def _read(self, inputs: torch.Tensor) -> torch.Tensor:
        """Feed inputs, float (R, t, D), to GPT-2, and return the logits after the last one, float (R, V)."""
        gpt = self.model.gpt
        # By position, since transformers 5.24 renamed the argument.
        output = gpt(None, self.cache, inputs_embeds=inputs.to(gpt.dtype), use_cache=True, logits_to_keep=1)
        logits: torch.Tensor = output.logits[:, -1]
        return logits


def _reorder(cache: DynamicCache, rows: torch.Tensor) -> None:
    """Reorder the cache to these of its rows, int64 (R')."""
    cache.reorder_cache(cast(torch.LongTensor, rows))


def run_loop(
    prefixes: Continuation, images: torch.Tensor, decoder: TokenDecoder, max_tokens: int
) -> list[list[list[int]]]:
    """Continue the prefixes of images until the decoder is done or a limit is reached.

    Args:
        prefixes: the model after it has read each image's prefix. It is not changed, so another call can use it.
        images: int64 (R), the image that each row captions.
        decoder: chooses the tokens.
        max_tokens: the longest caption; where the model has fewer positions left, that many.

    Returns:
        The captions of each image, as the decoder returns them.
    """
    limit = min(max_tokens, prefixes.room)
    texts = prefixes.of_images(images)
    tokens = torch.empty(len(images), 0, dtype=torch.long, device=images.device)
    decoder.reset(images, limit)
    while True:
        choice = decoder.update(tokens, texts.logits)
        kept = tokens if choice.rows is None else tokens[choice.rows]
        tokens = torch.cat([kept, choice.tokens[:, None]], dim=1)
        if choice.done or tokens.shape[1] == limit:
            return decoder.finalize(tokens)
        texts.advance(choice)
