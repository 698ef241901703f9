"""The decoding loop: images enter, their rows are continued token by token, and they leave when they are captioned.

    embedding -> prefix -> GPT-2 -> logits (R, V) -> strategy -> next tokens (R')
                             ^                                         |
                             +-- keys, values of rows that go on <-----+

An image that is done makes room for the next one, so that a batch stays full until the images run out.

G images, k rows of each, R rows (the texts that are continued), T tokens, V vocabulary.
"""

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from clipcap.caption.decoding.reader import Reader


@dataclass(frozen=True)
class Choice:
    """How the rows go on.

    Attributes:
        tokens: int64 (R'), the token that is appended to each row that goes on.
        rows: int64 (R'), the row that each of them continues: rows of an image may be repeated, reordered and left
            out. None stands for the rows of all images that stay, as they are.
        images: the images that stay, ascending, by their places among those that are there. None stands for all.
    """

    tokens: torch.Tensor
    rows: torch.Tensor | None = None
    images: Sequence[int] | None = None


class TokenDecoder(ABC):
    """Chooses tokens for the loop, which calls `reset`, then `add` and `update` as images come and go.

    Attributes:
        rows_per_image: k, texts that are continued for each image at the same time.
    """

    rows_per_image: int

    @abstractmethod
    def reset(self, device: torch.device, limit: int) -> None:
        """Begin, with no image.

        Args:
            device: of the model.
            limit: the longest caption in tokens. A row that reaches it ends.
        """

    @abstractmethod
    def add(self, images: Sequence[int]) -> None:
        """Take in images, whose k rows each come after those that are there.

        Args:
            images: their numbers.
        """

    @abstractmethod
    def update(self, tokens: torch.Tensor, ages: Sequence[int], logits: torch.Tensor) -> Choice:
        """Choose how the rows go on, and keep the captions of images that leave.

        Args:
            tokens: int64 (R, W), the tokens of each row so far, at the right; `Reader.PAD` is at their left.
            ages: for each image, the number of tokens that its rows have.
            logits: float (R, V), of the token that comes next.
        """


def run_loop(
    reader: Reader, embedding: torch.Tensor, images: Sequence[int], decoder: TokenDecoder, max_tokens: int, at_once: int
) -> None:
    """Caption images.

    Args:
        reader: of the decoder's rows; it has read nothing yet.
        embedding: float (n, d) or (n, t, d), on any device.
        images: the rows of `embedding` that are captioned, in this order; one may come more than once.
        decoder: chooses the tokens, and keeps the captions.
        max_tokens: the longest caption; where the model has fewer positions left, that many.
        at_once: how many images are captioned at the same time, at most.
    """
    device = reader.tokens.device
    decoder.reset(device, min(max_tokens, reader.room))
    waiting = deque(images)
    while waiting or reader.ages:
        free = at_once - len(reader.ages)
        # Reading prefixes is a pass of its own, which is worth it for several of them.
        if waiting and (free >= max(1, at_once // 4) or not reader.ages):
            entering = [waiting.popleft() for _ in range(min(free, len(waiting)))]
            reader.enter(embedding[entering].to(device))
            decoder.add(entering)
        choice = decoder.update(reader.tokens, reader.ages, reader.logits)
        reader.advance(choice.tokens, choice.rows, choice.images)
