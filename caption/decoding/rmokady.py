"""Decoding as rmokady/CLIP_prefix_caption does it, for that system's checkpoints.

G images at a time, k beams, T tokens of each, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from clipcap.caption.decoding.base import Strategy
from clipcap.caption.decoding.beam import BeamStrategy
from clipcap.caption.decoding.greedy import Greedy
from clipcap.caption.decoding.loop import Choice
from clipcap.caption.decoding.options import DecodeOptions
from clipcap.caption.decoding.rules import Ending
from clipcap.caption.decoding.sample import Sample
from clipcap.data.errors import UsageError
from clipcap.train.model.captioning import ClipCapModel

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

STOP = "."  # ends their captions, which were trained without an end-of-text


class _UntilStop(Strategy):
    """Has a text to stop at by default, and returns texts as they come, without tidying them."""

    def __init__(self, options: DecodeOptions | None = None) -> None:
        options = options or DecodeOptions()
        super().__init__(replace(options, stop=options.stop or STOP))

    def text(self, tokens: list[int], tokenizer: "PreTrainedTokenizerBase") -> str:
        """The text of a caption, with its spaces."""
        return str(tokenizer.decode(tokens, clean_up_tokenization_spaces=False))


class _UntilStopToken(_UntilStop):
    """Ends a caption with the first token of the text to stop at, and with nothing else."""

    def make_ending(self, model: ClipCapModel, tokenizer: "PreTrainedTokenizerBase") -> Ending:
        """The rule that the stop token ends a text."""
        return Ending(tokenizer.encode(str(self.options.stop))[0])


class RmokadyGreedy(_UntilStopToken, Greedy):
    """`generate2` of their predict.py. Its top-p changes nothing, because it takes the likeliest token."""


class RmokadyBeam(_UntilStopToken, BeamStrategy):
    """`generate_beam` of their predict.py, for many images at once.

    At each step the k candidates with the highest mean log-probability become the beams. A beam that ended stays among
    the candidates with its mean.

    Attributes:
        scores: float32 (G, k), sum of the log-probabilities of each beam.
        lengths: float32 (G, k), tokens of each beam.
        stopped: bool (G, k), beams that ended.
    """

    scores: torch.Tensor
    lengths: torch.Tensor
    stopped: torch.Tensor

    def __init__(self, options: DecodeOptions | None = None) -> None:
        super().__init__(options)
        if self.options.repetition_penalty != 1:
            fact = "rmokady's beam search has no `repetition_penalty`"
            raise UsageError(f"{fact}; leave it out, or use `decode` greedy")
        if self.options.length_penalty != 1:
            raise UsageError("rmokady's beam search has no `length_penalty`; leave it out")

    def reset(self, device: torch.device, limit: int) -> None:
        """Begin, with no image."""
        super().reset(device, limit)
        k = self.options.beams
        self.scores = torch.empty(0, k, device=device)
        self.lengths = torch.empty(0, k, device=device)
        self.stopped = torch.empty(0, k, dtype=torch.bool, device=device)

    def add(self, images: Sequence[int]) -> None:
        """Add one beam for each image; the others would be copies of it."""
        self.images += images
        more = len(images), self.options.beams
        scores = self.scores.new_full(more, -torch.inf)
        scores[:, 0] = 0
        self.scores = torch.cat([self.scores, scores])
        self.lengths = torch.cat([self.lengths, self.lengths.new_zeros(more)])
        self.stopped = torch.cat([self.stopped, self.stopped.new_zeros(more)])

    def update(self, tokens: torch.Tensor, ages: Sequence[int], logits: torch.Tensor) -> Choice:
        """Let the k candidates with the highest means become the beams."""
        G, k = self.scores.shape
        step = logits.float().softmax(dim=-1).log().view(G, k, -1)  # (G, k, V)
        # A beam that has stopped has one candidate, which costs nothing: itself. Its token is not read.
        step[self.stopped] = -torch.inf
        step[..., 0][self.stopped] = 0
        lengths = self.lengths + ~self.stopped
        means = (self.scores[..., None] + step) / lengths[..., None]
        best, chosen = means.flatten(1).topk(k, dim=-1)
        beam, token = chosen // means.shape[-1], chosen % means.shape[-1]
        self.lengths = lengths.gather(1, beam)
        self.stopped = self.stopped.gather(1, beam) | (token == self.ending.end)
        self.scores = best * self.lengths
        rows = beam + k * torch.arange(G, device=beam.device)[:, None]
        stopped = self.stopped.all(dim=1).tolist()
        stay = [i for i, age in enumerate(ages) if not stopped[i] and age + 1 < self.limit]
        if len(stay) == len(ages):
            return Choice(token.flatten(), rows.flatten())
        for i in sorted(set(range(len(ages))) - set(stay)):
            texts = torch.cat([tokens[rows[i]], token[i][:, None]], dim=1)[:, -ages[i] - 1 :]
            self.captions_of[self.images[i]] = self._best(texts, i)
        kept = torch.tensor(stay, dtype=torch.long, device=tokens.device)
        self.images = [self.images[i] for i in stay]
        self.scores, self.lengths, self.stopped = self.scores[kept], self.lengths[kept], self.stopped[kept]
        return Choice(token[kept].flatten(), rows[kept].flatten(), stay)

    def _best(self, texts: torch.Tensor, image: int) -> list[list[int]]:
        """The n beams of an image, int64 (k, T), that have the highest means."""
        means = self.scores[image] / self.lengths[image]
        order = means.argsort(descending=True, stable=True)[: self.options.captions].tolist()
        lengths = self.lengths[image].long().tolist()
        return [texts[beam, : lengths[beam]].tolist() for beam in order]


class RmokadySample(_UntilStop, Sample):
    """Sampling until the text to stop at, or end-of-text."""
