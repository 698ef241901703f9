"""Decoding as other systems do it, so that their checkpoints say what they always said.

B embeddings, k beams, T tokens, V vocabulary.
"""

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from clipcap.caption.decoding.strategies import Beam, DecodeOptions, Greedy, Sample, Strategy, until
from clipcap.data.errors import UsageError
from clipcap.train.foreign.jmisilo import JmisiloModel
from clipcap.train.model.captioning import ClipCapModel

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

STOP = "."  # of rmokady's captions, which were trained without an end


class _UntilStop(Strategy):
    """Captions end with one token, the first of the text to stop at; what is said is not tidied."""

    def __init__(self, options: DecodeOptions | None = None) -> None:
        options = options or DecodeOptions()
        super().__init__(replace(options, stop=options.stop or STOP))

    def _stop(self, tokenizer: "PreTrainedTokenizerBase") -> int:
        tokens: list[int] = tokenizer.encode(str(self.options.stop))
        return tokens[0]

    def _text(self, tokens: list[int], tokenizer: "PreTrainedTokenizerBase") -> str:
        return str(tokenizer.decode(tokens, clean_up_tokenization_spaces=False))


class RmokadyGreedy(_UntilStop, Greedy):
    """`generate2` of rmokady/CLIP_prefix_caption predict.py, whose top-p changes nothing: the likeliest is taken."""

    def decode(
        self, model: ClipCapModel, embedding: torch.Tensor, tokenizer: "PreTrainedTokenizerBase"
    ) -> list[list[list[int]]]:
        """One caption for each embedding."""
        stop = self._stop(tokenizer)
        penalty = (
            {} if self.options.repetition_penalty == 1 else {"repetition_penalty": self.options.repetition_penalty}
        )
        return [[row] for row in self._continue(model, embedding, end=stop, **penalty)]


class RmokadyBeam(_UntilStop, Beam):
    """`generate_beam` of rmokady/CLIP_prefix_caption predict.py, for many embeddings at once.

    At every step the k candidates with the highest mean log-probability go on, wherever they came from; a beam that
    has said the stop token keeps its place and its mean.
    """

    def __init__(self, options: DecodeOptions | None = None) -> None:
        super().__init__(options)
        if self.options.repetition_penalty != 1:
            raise UsageError("rmokady's beam search has no --repetition-penalty; leave it out, or use --decode greedy")

    def decode(
        self, model: ClipCapModel, embedding: torch.Tensor, tokenizer: "PreTrainedTokenizerBase"
    ) -> list[list[list[int]]]:
        """The best captions for each embedding; all beams are distinct tokens."""
        stop, beams = self._stop(tokenizer), self.options.beams
        prefix = model.clip_project(embedding)
        limit = min(self._limit(model), model.gpt.config.n_positions - prefix.shape[1])
        output = model.gpt(inputs_embeds=prefix.to(model.gpt.dtype), use_cache=True)
        past: Any = output.past_key_values
        past.batch_repeat_interleave(beams)
        scores, said = _log_probabilities(output.logits).topk(beams, dim=-1)  # (B, k)
        said = said[..., None]  # (B, k, T)
        lengths, stopped = torch.ones_like(scores), said[..., -1] == stop
        rows = torch.arange(len(prefix), device=prefix.device)[:, None]
        for _ in range(1, limit):
            if stopped.all():
                break
            words = model.gpt.transformer.wte(said[..., -1].reshape(-1, 1))  # (B * k, 1, D)
            output = model.gpt(inputs_embeds=words, past_key_values=past, use_cache=True)
            step = _log_probabilities(output.logits).view(len(prefix), beams, -1)  # (B, k, V)
            # A beam that has stopped has one way on, which costs nothing.
            step[stopped] = -torch.inf
            step[..., 0][stopped] = 0
            lengths = lengths + ~stopped
            means = (scores[..., None] + step) / lengths[..., None]
            best, chosen = means.flatten(1).topk(beams, dim=-1)
            source, token = chosen // means.shape[-1], chosen % means.shape[-1]
            lengths, stopped = lengths.gather(1, source), stopped.gather(1, source) | (token == stop)
            said = torch.cat([said[rows, source], token[..., None]], dim=-1)
            scores = best * lengths
            past.reorder_cache((rows * beams + source).flatten())
        order = (scores / lengths).argsort(dim=-1, descending=True, stable=True)[:, : self.options.captions]
        return [
            [said[row, beam, : int(lengths[row, beam])].tolist() for beam in beams_in_order]
            for row, beams_in_order in enumerate(order.tolist())
        ]


class RmokadySample(_UntilStop, Sample):
    """Sampling, until the stop token."""


class JmisiloGreedy(Greedy):
    """`Net.forward` of jmisilo/clip-gpt-captioning src/model/model.py: greedy, at most 40 tokens, a capital first."""

    longest = 40

    def decode(
        self, model: ClipCapModel, embedding: torch.Tensor, tokenizer: "PreTrainedTokenizerBase"
    ) -> list[list[list[int]]]:
        """One caption for each embedding."""
        assert isinstance(model, JmisiloModel)
        if self.options.stop is not None or self.options.repetition_penalty != 1:
            raise UsageError("jmisilo's decoding has neither --stop nor --repetition-penalty; leave them out")
        start = model.start(embedding)
        limit = min(self._limit(model), model.gpt.config.n_positions - start.shape[1])
        said = torch.empty(len(start), 0, dtype=torch.long, device=start.device)
        for _ in range(limit):
            token = model.next_logits(start, said)[:, -1].argmax(dim=-1)
            said = torch.cat([said, token[:, None]], dim=1)
            if (said == model.end).any(dim=1).all():
                break
        return [[until(row, model.end)] for row in said.tolist()]

    def _text(self, tokens: list[int], tokenizer: "PreTrainedTokenizerBase") -> str:
        # They leave the last token out whether it is the end or, of a caption that never ended, a word.
        text = str(tokenizer.decode(tokens[:-1], clean_up_tokenization_spaces=False)).strip()
        return text[:1].upper() + text[1:]


class _ThirtyPositions(Strategy):
    """`max_length=30` of Lahdhirim/CV-image-captioning-clip-gpt2; transformers counts the prefix among them."""

    def _limit(self, model: ClipCapModel) -> int:
        return self.options.max_tokens or 30 - model.clip_project.config.prefix_length


class LahdhirimBeam(_ThirtyPositions, Beam):
    """transformers' beam search."""


class LahdhirimGreedy(_ThirtyPositions, Greedy):
    """transformers' greedy search."""


class LahdhirimSample(_ThirtyPositions, Sample):
    """Sampling."""


def _log_probabilities(logits: torch.Tensor) -> torch.Tensor:
    """Of the token that comes next: float (rows, V)."""
    return logits[:, -1].float().softmax(dim=-1).log()


# What each system can do, its own way first.
FOREIGN_STRATEGIES: dict[str, dict[str, type[Strategy]]] = {
    "rmokady": {"greedy": RmokadyGreedy, "beam": RmokadyBeam, "sample": RmokadySample},
    "jmisilo": {"greedy": JmisiloGreedy},
    "lahdhirim": {"beam": LahdhirimBeam, "greedy": LahdhirimGreedy, "sample": LahdhirimSample},
}
