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

B images, k beams, c = 2k candidates, T tokens so far, V vocabulary.
"""

from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

import torch

from clipcap.caption.decoding.base import Strategy
from clipcap.caption.decoding.greedy import Greedy
from clipcap.caption.decoding.loop import Choice
from clipcap.caption.decoding.options import DecodeOptions
from clipcap.caption.decoding.rules import penalize_repetition
from clipcap.data.errors import UsageError
from clipcap.train.model.captioning import ClipCapModel

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Score of a discarded beam. It is finite, as in transformers, so that discarded beams keep their order.
_OUT = -1e9


class BeamStrategy(Strategy):
    """What all beam searches share: k rows for each image, for at most k captions."""

    own_options: ClassVar[frozenset[str]] = frozenset({"beams", "length_penalty"})

    def __init__(self, options: DecodeOptions | None = None) -> None:
        super().__init__(options)
        self.rows_per_image = self.options.beams
        if self.options.captions > self.options.beams:
            count = self.options.captions
            raise UsageError(f"`captions` {count} needs as many beams; give `beams` {count}")


class Beam(BeamStrategy):
    """Beam search as transformers' `generate` does it, with its default `early_stopping`.

    An image is closed when its best beam, at its present length, has a lower mean than the worst of k finished
    captions. Without a stop text, at most one candidate of each beam ends, so that at least k of the 2k
    best candidates continue.

    Attributes:
        scores: float32 (B, k), sum of the log-probabilities of each beam, best first.
        finished, finished_scores, finished_lengths: int64 (B, k, limit), float32 (B, k) and int64 (B, k): the best
            finished captions so far, their mean log-probabilities, and their lengths in tokens.
        open: bool (B, 1), images whose finished captions could still improve.
    """

    scores: torch.Tensor
    finished: torch.Tensor
    finished_scores: torch.Tensor
    finished_lengths: torch.Tensor
    open: torch.Tensor

    def decode(
        self, model: ClipCapModel, embedding: torch.Tensor, tokenizer: "PreTrainedTokenizerBase"
    ) -> list[list[list[int]]]:
        """The n best captions of each embedding; with one beam, `generate` decodes greedily."""
        if self.options.beams > 1:
            return super().decode(model, embedding, tokenizer)
        greedy = Greedy(replace(self.options, max_tokens=self.max_tokens(model)))
        return greedy.decode(model, embedding, tokenizer)

    def reset(self, images: torch.Tensor, limit: int) -> None:
        """Begin with one beam for each image; the others would be copies of it."""
        k, device = self.options.beams, images.device
        B = len(images) // k
        self.scores = torch.full((B, k), _OUT, device=device)
        self.scores[:, 0] = 0
        self.finished = torch.full((B, k, limit), self.ending.end, device=device)
        self.finished_scores = torch.full((B, k), _OUT, device=device)
        self.finished_lengths = torch.zeros(B, k, dtype=torch.long, device=device)
        self.open = torch.ones(B, 1, dtype=torch.bool, device=device)

    def update(self, tokens: torch.Tensor, logits: torch.Tensor) -> Choice:
        """Continue the beams: the k best candidates that go on become the new beams."""
        B, k, limit = self.finished.shape
        length = tokens.shape[1] + 1
        log_probs = penalize_repetition(logits.float().log_softmax(dim=-1), tokens, self.options.repetition_penalty)
        sums = log_probs.view(B, k, -1).add_(self.scores[:, :, None])  # (B, k, V), in place: the vocabulary is large
        scores, chosen = sums.flatten(1).topk(2 * k)  # (B, c)
        beam, token = chosen // sums.shape[-1], chosen % sums.shape[-1]
        rows = beam + k * torch.arange(B, device=beam.device)[:, None]
        texts = torch.cat([tokens[rows], token[:, :, None]], dim=-1)  # (B, c, T + 1)
        ends = self.ending(texts.flatten(0, 1)).view(B, -1)
        if length == limit:
            ends = torch.ones_like(ends)

        divisor = length**self.options.length_penalty
        self._finish(texts, scores / divisor, ends)
        going = (scores + _OUT * ends).topk(k)
        self.scores = going.values
        # A heuristic of transformers: the best mean of a beam now is taken for the best that it can reach.
        self.open &= self.scores[:, :1] / divisor > self.finished_scores.amin(dim=1, keepdim=True)
        return Choice(
            token.gather(1, going.indices).flatten(),
            rows.gather(1, going.indices).flatten(),
            done=not self.open.any() or bool(ends.all()),
        )

    def _finish(self, texts: torch.Tensor, means: torch.Tensor, ends: torch.Tensor) -> None:
        """Let the candidates that ended take places among the k finished captions of their image.

        Args:
            texts: int64 (B, c, T + 1), candidates, best first.
            means: float32 (B, c), their mean log-probabilities.
            ends: bool (B, c), whether they ended.
        """
        k, limit = self.finished.shape[1:]
        length = texts.shape[2]
        admitted = ends & self.open
        admitted[:, k:] = False  # the later candidates only replace beams that ended
        merged = torch.cat([self.finished_scores, torch.where(admitted, means, means + _OUT)], dim=1)
        self.finished_scores, places = merged.topk(k)
        padded = torch.nn.functional.pad(texts, (0, limit - length), value=self.ending.end)
        merged_texts = torch.cat([self.finished, padded], dim=1)
        self.finished = merged_texts.take_along_dim(places[:, :, None], dim=1)
        lengths = torch.cat([self.finished_lengths, torch.full_like(places, length).repeat(1, 2)], dim=1)
        self.finished_lengths = lengths.gather(1, places)

    def finalize(self, tokens: torch.Tensor) -> list[list[list[int]]]:
        """The n best finished captions of each image. Of captions with equal text, only the best is kept."""
        best: list[list[list[int]]] = []
        for rows, lengths in zip(self.finished.tolist(), self.finished_lengths.tolist(), strict=True):
            by_text: dict[str, list[int]] = {}
            for row, length in zip(rows, lengths, strict=True):
                if len(by_text) < self.options.captions:
                    by_text.setdefault(self.text(row[:length], self.tokenizer), row[:length])
            best.append(list(by_text.values()))
        return best
