"""Beam search.

Each image has k beams, the best texts so far. At each step every beam is continued with every token of the vocabulary.
The best k of these candidates that do not end become the new beams; an end among the best k is a finished caption.
With k = 2, and scores that are sums of log-probabilities:

    beams            candidates             new beams            finished
    -0.5 a dog       -0.9 a dog runs        -0.9 a dog runs
    -0.7 a cat       -1.0 a dog <end>                            -1.0 / 3  a dog <end>
                     -1.1 a cat sits        -1.1 a cat sits
                     -2.4 a cat on

Finished captions are ranked by the mean over their tokens, so that short and long ones compare; with a length penalty
other than 1, the sum is divided by that power of the length instead.

G images at a time, k beams, c = 2k candidates, W columns of tokens, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

import torch
import torch.nn.functional as F

from clipcap.caption.decoding.base import AT_ONCE, Strategy
from clipcap.caption.decoding.greedy import Greedy
from clipcap.caption.decoding.loop import Choice
from clipcap.caption.decoding.options import DecodeOptions
from clipcap.caption.decoding.reader import Reader
from clipcap.caption.decoding.rules import penalize_repetition
from clipcap.data.errors import UsageError
from clipcap.train.model.captioning import ClipCapModel

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Score of a discarded beam. It is finite, as in transformers, so that discarded beams keep their order.
_OUT = -1e9


class BeamStrategy(Strategy):
    """What all beam searches share: k rows for each image, for at most k captions.

    Attributes:
        images: the images that are there, by their numbers.
        limit: the longest caption.
    """

    own_options: ClassVar[frozenset[str]] = frozenset({"beams", "length_penalty"})

    images: list[int]
    limit: int

    def __init__(self, options: DecodeOptions | None = None) -> None:
        super().__init__(options)
        self.rows_per_image = self.options.beams
        if self.options.captions > self.options.beams:
            count = self.options.captions
            raise UsageError(f"`captions` {count} needs as many beams; give `beams` {count}")

    def reset(self, device: torch.device, limit: int) -> None:
        """Begin, with no image."""
        self.images, self.limit = [], limit


class Beam(BeamStrategy):
    """Beam search as transformers' `generate` does it, with its default `early_stopping`.

    An image is done when its best beam, at its present length, has a lower mean than the worst of k finished
    captions. Without a stop text, at most one candidate of each beam ends, so that at least k of the 2k
    best candidates continue.

    Attributes:
        scores: float32 (G, k), sum of the log-probabilities of each beam, best first.
        finished, finished_scores, finished_lengths: int64 (G, k, limit), float32 (G, k) and int64 (G, k): the best
            finished captions so far, which stand at the right, their mean log-probabilities, and their lengths in
            tokens.
    """

    scores: torch.Tensor
    finished: torch.Tensor
    finished_scores: torch.Tensor
    finished_lengths: torch.Tensor

    def decode(
        self,
        model: ClipCapModel,
        embedding: torch.Tensor,
        tokenizer: "PreTrainedTokenizerBase",
        at_once: int = AT_ONCE,
    ) -> list[list[list[int]]]:
        """The n best captions of each embedding; with one beam, `generate` decodes greedily."""
        if self.options.beams > 1:
            return super().decode(model, embedding, tokenizer, at_once)
        greedy = Greedy(replace(self.options, max_tokens=self.max_tokens(model)))
        return greedy.decode(model, embedding, tokenizer, at_once)

    def reset(self, device: torch.device, limit: int) -> None:
        """Begin, with no image."""
        super().reset(device, limit)
        k = self.options.beams
        self.scores = torch.empty(0, k, device=device)
        self.finished = torch.empty(0, k, limit, dtype=torch.long, device=device)
        self.finished_scores = torch.empty(0, k, device=device)
        self.finished_lengths = torch.empty(0, k, dtype=torch.long, device=device)

    def add(self, images: Sequence[int]) -> None:
        """Add one beam for each image; the others would be copies of it."""
        self.images += images
        more = len(images), self.options.beams
        scores = self.scores.new_full(more, _OUT)
        scores[:, 0] = 0
        self.scores = torch.cat([self.scores, scores])
        self.finished = torch.cat([self.finished, self.finished.new_zeros(*more, self.limit)])
        self.finished_scores = torch.cat([self.finished_scores, self.finished_scores.new_full(more, _OUT)])
        self.finished_lengths = torch.cat([self.finished_lengths, self.finished_lengths.new_zeros(more)])

    def update(self, tokens: torch.Tensor, ages: Sequence[int], logits: torch.Tensor) -> Choice:
        """Continue the beams: the k best candidates that go on become the new beams."""
        G, k = self.scores.shape
        length = (tokens[::k] != Reader.PAD).sum(dim=1, keepdim=True) + 1  # (G, 1), of the candidates
        log_probs = penalize_repetition(logits.float().log_softmax(dim=-1), tokens, self.options.repetition_penalty)
        sums = log_probs.view(G, k, -1).add_(self.scores[:, :, None])  # (G, k, V), in place: the vocabulary is large
        scores, chosen = sums.flatten(1).topk(2 * k)  # (G, c)
        beam, token = chosen // sums.shape[-1], chosen % sums.shape[-1]
        rows = beam + k * torch.arange(G, device=beam.device)[:, None]
        texts = torch.cat([tokens[rows], token[:, :, None]], dim=-1)  # (G, c, W + 1)
        ends = self.ending(texts.flatten(0, 1)).view(G, -1) | (length == self.limit)

        divisor = length**self.options.length_penalty
        self._finish(texts, length, scores / divisor, ends)
        going = (scores + _OUT * ends).topk(k)
        self.scores = going.values
        # A heuristic of transformers: the best mean of a beam now is taken for the best that it can reach.
        better = self.scores[:, :1] / divisor > self.finished_scores.amin(dim=1, keepdim=True)
        goes_on = (better & (length < self.limit))[:, 0].tolist()
        token, rows = token.gather(1, going.indices), rows.gather(1, going.indices)
        stay = [i for i in range(G) if goes_on[i]]
        if len(stay) == G:
            return Choice(token.flatten(), rows.flatten())
        for i in range(G):
            if not goes_on[i]:
                self.captions_of[self.images[i]] = self._best(i)
        kept = torch.tensor(stay, dtype=torch.long, device=tokens.device)
        self.images = [self.images[i] for i in stay]
        self.scores, self.finished = self.scores[kept], self.finished[kept]
        self.finished_scores, self.finished_lengths = self.finished_scores[kept], self.finished_lengths[kept]
        return Choice(token[kept].flatten(), rows[kept].flatten(), stay)

    def _finish(self, texts: torch.Tensor, length: torch.Tensor, means: torch.Tensor, ends: torch.Tensor) -> None:
        """Let the candidates that ended take places among the k finished captions of their image.

        Args:
            texts: int64 (G, c, W + 1), candidates, best first.
            length: int64 (G, 1), how many tokens those of each image have.
            means: float32 (G, c), their mean log-probabilities.
            ends: bool (G, c), whether they ended.
        """
        k = self.options.beams
        admitted = ends.clone()
        admitted[:, k:] = False  # the later candidates only replace beams that ended
        merged = torch.cat([self.finished_scores, torch.where(admitted, means, means + _OUT)], dim=1)
        self.finished_scores, places = merged.topk(k)
        padded = F.pad(texts, (self.limit - texts.shape[2], 0))
        merged_texts = torch.cat([self.finished, padded], dim=1)
        self.finished = merged_texts.take_along_dim(places[:, :, None], dim=1)
        lengths = torch.cat([self.finished_lengths, length.expand(-1, 2 * k)], dim=1)
        self.finished_lengths = lengths.gather(1, places)

    def _best(self, image: int) -> list[list[int]]:
        """The n best finished captions of an image. Of captions with equal text, the best is kept."""
        by_text: dict[str, list[int]] = {}
        for row, length in zip(self.finished[image].tolist(), self.finished_lengths[image].tolist(), strict=True):
            if len(by_text) < self.options.captions:
                tokens = row[self.limit - length :]
                by_text.setdefault(self.text(tokens, self.tokenizer), tokens)
        return list(by_text.values())
