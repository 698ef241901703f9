"""Decoding strategies: how a caption is chosen among all that the model could say. One small class a strategy.

B embeddings, n captions of each, T tokens, V vocabulary.
"""

import hashlib
import math
import warnings
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from clipcap.data.errors import UsageError
from clipcap.train.model.captioning import ClipCapModel

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_MOST_TRIES = 10  # samples for each caption that is wanted, until they are distinct


@dataclass(frozen=True, kw_only=True)
class DecodeOptions:
    """What a person may ask for. A strategy refuses what it cannot honour.

    Attributes:
        captions: of each embedding, n.
        max_tokens: the longest caption; by default what the strategy has.
        stop: a text that ends a caption as end-of-text does; it stays in the caption.
        repetition_penalty: above 1, tokens that were said are less likely to come again (CTRL, arXiv:1909.05858).
        beams: captions that beam search keeps at each step.
        temperature: of sampling; logits are divided by it.
        top_p: sample from the likeliest tokens whose probabilities make up so much (nucleus, arXiv:1904.09751).
        top_k: sample from so many likeliest tokens; 0 for all.
        seed: of sampling.
    """

    captions: int = 1
    max_tokens: int | None = None
    stop: str | None = None
    repetition_penalty: float = 1.0
    beams: int = 5
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("max_tokens", 1), ("captions", 1), ("beams", 1), ("top_k", 0)):
            if getattr(self, name) is not None and getattr(self, name) < least:
                raise UsageError(f"{_option(name)} must be at least {least}, not {getattr(self, name)}")
        for name in ("temperature", "repetition_penalty", "top_p"):
            if not 0 < getattr(self, name) < math.inf:
                raise UsageError(f"{_option(name)} must be a number above 0, not {getattr(self, name)}")
        if self.top_p > 1:
            raise UsageError(f"--top-p must be at most 1, not {self.top_p}")
        if self.stop == "":
            raise UsageError("--stop is empty; give the text that ends a caption, or leave it out")


def _option(name: str) -> str:
    return "-n" if name == "captions" else f"--{name.replace('_', '-')}"


class Strategy(ABC):
    """Chooses captions.

    Args:
        options: what was asked for.

    Attributes:
        longest: tokens of a caption, where nobody says otherwise; as ClipCap's own predict.py.

    Raises:
        UsageError: the strategy cannot do that.
    """

    longest: ClassVar[int] = 67

    def __init__(self, options: DecodeOptions | None = None) -> None:
        self.options = options or DecodeOptions()

    @abstractmethod
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
            Fewer than n, where the model has no more to say.
        """

    def captions(
        self, model: ClipCapModel, embedding: torch.Tensor, tokenizer: "PreTrainedTokenizerBase"
    ) -> list[list[str]]:
        """As `decode`, but texts: without end-of-text, cut behind the text to stop at."""
        rows = self.decode(model, embedding, tokenizer)
        return [[self._text(tokens, tokenizer) for tokens in row] for row in rows]

    def _text(self, tokens: list[int], tokenizer: "PreTrainedTokenizerBase") -> str:
        text = str(tokenizer.decode(tokens, skip_special_tokens=True))
        if self.options.stop is not None and self.options.stop in text:
            text = text[: text.index(self.options.stop) + len(self.options.stop)]
        return text.strip()

    def _generate(
        self, model: ClipCapModel, embedding: torch.Tensor, tokenizer: "PreTrainedTokenizerBase", **more: Any
    ) -> list[list[int]]:
        """As `_continue`, with what the options ask for."""
        if self.options.repetition_penalty != 1:
            more["repetition_penalty"] = self.options.repetition_penalty
        if self.options.stop is not None:
            more.update(stop_strings=[self.options.stop], tokenizer=tokenizer)
        return self._continue(model, embedding, end=model.end, **more)

    def _continue(self, model: ClipCapModel, embedding: torch.Tensor, end: int, **more: Any) -> list[list[int]]:
        """Through transformers' own `generate`: the tokens of each caption, up to the one that ends it."""
        with warnings.catch_warnings():
            # That a penalty is for what was said and not for the prefix: of course it is.
            warnings.filterwarnings("ignore", "Passing `repetition_penalty` with `inputs_embeds`")
            tokens = model.continue_prefix(embedding, end=end, max_new_tokens=self._limit(model), **more)
        return [until(row, end) for row in tokens.tolist()]

    def _limit(self, model: ClipCapModel) -> int:
        """Tokens of the longest caption."""
        return self.options.max_tokens or self.longest


class Greedy(Strategy):
    """Always the likeliest next token."""

    def __init__(self, options: DecodeOptions | None = None) -> None:
        super().__init__(options)
        if self.options.captions != 1:
            raise UsageError(
                f"greedy decoding has one caption, not {self.options.captions}; use --decode beam or sample"
            )

    def decode(
        self, model: ClipCapModel, embedding: torch.Tensor, tokenizer: "PreTrainedTokenizerBase"
    ) -> list[list[list[int]]]:
        """One caption for each embedding."""
        return [[row] for row in self._generate(model, embedding, tokenizer)]


class Beam(Strategy):
    """Beam search as transformers does it: the captions with the highest mean log-probability of a token."""

    def __init__(self, options: DecodeOptions | None = None) -> None:
        super().__init__(options)
        if self.options.captions > self.options.beams:
            count = self.options.captions
            raise UsageError(f"-n {count} captions need as many beams; give --beams {count}")

    def decode(
        self, model: ClipCapModel, embedding: torch.Tensor, tokenizer: "PreTrainedTokenizerBase"
    ) -> list[list[list[int]]]:
        """The best captions for each embedding."""
        count = self.options.captions
        # All beams, where several captions are wanted: two of them may be the same words in other tokens.
        kept = self.options.beams if count > 1 else 1
        rows = self._generate(model, embedding, tokenizer, num_beams=self.options.beams, num_return_sequences=kept)
        return [self._distinct(rows[start : start + kept], tokenizer)[:count] for start in range(0, len(rows), kept)]

    def _distinct(self, rows: list[list[int]], tokenizer: "PreTrainedTokenizerBase") -> list[list[int]]:
        by_text: dict[str, list[int]] = {}
        for row in rows:
            by_text.setdefault(self._text(row, tokenizer), row)
        return list(by_text.values())


class Sample(Strategy):
    """Sampling: distinct captions, those with the highest mean log-probability first.

    The random numbers of a caption come from the seed and the embedding alone, so that it does not depend on what
    else is in the batch, nor on the order of the inputs.
    """

    def decode(
        self, model: ClipCapModel, embedding: torch.Tensor, tokenizer: "PreTrainedTokenizerBase"
    ) -> list[list[list[int]]]:
        """Up to n captions for each embedding: fewer, where the model hardly says anything else."""
        wanted = self.options.captions
        found: list[dict[str, tuple[float, list[int]]]] = [{} for _ in embedding]  # by their texts
        for trial in range(_MOST_TRIES if wanted > 1 else 1):
            short = [row for row, captions in enumerate(found) if len(captions) < wanted]
            if not short:
                break
            rows = [row for row in short for _ in range(wanted - len(found[row]))]
            streams = [
                f"{self.options.seed} {trial} {number}" for row in short for number in range(wanted - len(found[row]))
            ]
            sampled = self._sample(model, embedding[rows], streams, tokenizer)
            for row, (tokens, score) in zip(rows, sampled, strict=True):
                found[row].setdefault(self._text(tokens, tokenizer), (score, tokens))
        best_first = [sorted(some.values(), key=lambda scored: -scored[0]) for some in found]
        return [[tokens for _, tokens in some] for some in best_first]

    def _sample(
        self, model: ClipCapModel, embedding: torch.Tensor, streams: list[str], tokenizer: "PreTrainedTokenizerBase"
    ) -> list[tuple[list[int], float]]:
        """One caption for each embedding and stream of random numbers, with its mean log-probability."""
        prefix = model.clip_project(embedding)
        limit = min(self._limit(model), model.gpt.config.n_positions - prefix.shape[1])
        uniform = torch.stack([_uniform(row, stream, limit) for row, stream in zip(embedding, streams, strict=True)])
        end = model.end
        said = torch.empty(len(prefix), 0, dtype=torch.long)
        scores = torch.zeros(len(prefix), dtype=torch.double)
        ended = torch.zeros(len(prefix), dtype=torch.bool)
        lengths = torch.zeros(len(prefix), dtype=torch.long)
        inputs, past = prefix.to(model.gpt.dtype), None
        for step in range(limit):
            output = model.gpt(inputs_embeds=inputs, past_key_values=past, use_cache=True)
            past = output.past_key_values
            # On the CPU in double precision: the running sum over the vocabulary would lose small probabilities.
            logits = output.logits[:, -1].cpu().double()
            chosen = _draw(self._shaped(logits, said), uniform[:, step])
            scores += torch.where(ended, 0.0, logits.log_softmax(dim=-1).gather(1, chosen[:, None])[:, 0])
            lengths += ~ended
            said = torch.cat([said, torch.where(ended, end, chosen)[:, None]], dim=1)
            ended |= said[:, -1] == end
            if self.options.stop is not None:
                ended |= torch.tensor([self.options.stop in str(tokenizer.decode(row)) for row in said])
            if ended.all():
                break
            inputs = model.gpt.transformer.wte(said[:, -1:].to(embedding.device))
        means = (scores / lengths).tolist()
        return [(row[:length], mean) for row, length, mean in zip(said.tolist(), lengths.tolist(), means, strict=True)]

    def _shaped(self, logits: torch.Tensor, said: torch.Tensor) -> torch.Tensor:
        """Logits (B, V) after penalty, temperature, top-k and top-p, in this order, as in transformers."""
        from transformers import (
            LogitsProcessorList,
            RepetitionPenaltyLogitsProcessor,
            TemperatureLogitsWarper,
            TopKLogitsWarper,
            TopPLogitsWarper,
        )

        options = self.options
        shape = LogitsProcessorList()
        if options.repetition_penalty != 1 and said.shape[1]:
            shape.append(RepetitionPenaltyLogitsProcessor(options.repetition_penalty))
        if options.temperature != 1:
            shape.append(TemperatureLogitsWarper(options.temperature))
        if options.top_k:
            shape.append(TopKLogitsWarper(options.top_k))
        if options.top_p < 1:
            shape.append(TopPLogitsWarper(options.top_p))
        shaped: torch.Tensor = shape(said, logits)  # type: ignore[arg-type]
        return shaped


def _uniform(embedding: torch.Tensor, stream: str, count: int) -> torch.Tensor:
    """Random numbers in [0, 1), double (count), that depend on the embedding and the stream alone."""
    content = embedding.float().cpu().numpy().tobytes()
    seed = int.from_bytes(hashlib.sha256(stream.encode() + content).digest()[:8], "big") >> 1
    return torch.rand(count, dtype=torch.double, generator=torch.Generator().manual_seed(seed))


def _draw(logits: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
    """The token of each row where the running sum of probabilities passes a number: int64 (B)."""
    running = logits.softmax(dim=-1).cumsum(dim=-1)
    return torch.searchsorted(running, (uniform * running[:, -1])[:, None], right=True)[:, 0]


def until(tokens: list[int], end: int) -> list[int]:
    """The tokens up to the first end-of-text, it included."""
    return tokens[: tokens.index(end) + 1] if end in tokens else tokens


# A new strategy is its class and its line here; the first is taken where none is asked for.
STRATEGIES: dict[str, type[Strategy]] = {
    "greedy": Greedy,
    "beam": Beam,
    "sample": Sample,
}


def choose_strategy(name: str | None, options: DecodeOptions | None = None, system: str = "clipcap") -> Strategy:
    """The strategy of that name.

    Args:
        name: of a strategy; None for the system's own.
        options: what is asked of it.
        system: whose checkpoint is to speak, ours or one of `SYSTEMS` in train/foreign.

    Raises:
        UsageError: there is none of that name, or it cannot do what the options ask for.
    """
    strategies: dict[str, Any] = dict(STRATEGIES)
    if system != "clipcap":
        from clipcap.caption.decoding.foreign import FOREIGN_STRATEGIES

        strategies = dict(FOREIGN_STRATEGIES[system])
    name = name or next(iter(strategies))
    if name not in strategies:
        whose = f" of a {system} checkpoint" if name in STRATEGIES else ""
        raise UsageError(f"--decode {name}{whose} is not known; use {', '.join(strategies)}")
    strategy: Strategy = strategies[name](options)
    return strategy
