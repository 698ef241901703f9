"""Sampling.

B images, n captions of each, R rows, T tokens so far, V vocabulary.
"""

import hashlib
from collections import Counter
from typing import ClassVar

import torch

from clipcap.caption.decoding.base import RowStrategy
from clipcap.caption.decoding.loop import Continuation, run_loop
from clipcap.caption.decoding.rules import keep_likeliest, keep_nucleus, penalize_repetition

_TRIALS = 10  # runs of the loop for an image, until it has n distinct captions


class Sample(RowStrategy):
    """Draws each token by its probability: distinct captions, the one with the highest mean log-probability first.

    The random numbers of a caption depend on the seed and the embedding alone, so that the caption does not depend on
    the images beside it in a batch.

    Attributes:
        embedding: of all images, float (B, d) or (B, t, d).
        trial: number of the run of the loop, from 0.
        images: the image of each row.
        uniform: float64 (R, limit), the random numbers of each row.
        scores: float64 (R), sum of the log-probabilities of each row, as the model gave them.
        found: of each image its distinct captions so far: text to mean log-probability and tokens.
    """

    own_options: ClassVar[frozenset[str]] = frozenset({"temperature", "top_p", "top_k", "seed"})

    embedding: torch.Tensor
    trial: int
    images: list[int]
    uniform: torch.Tensor
    scores: torch.Tensor
    found: list[dict[str, tuple[float, list[int]]]]

    def search(self, prefixes: Continuation, embedding: torch.Tensor, max_tokens: int) -> list[list[list[int]]]:
        """Run the loop until each image has n distinct captions, but for images with which the model hardly varies."""
        self.embedding, self.found = embedding, [{} for _ in embedding]
        wanted = self.options.captions
        ranked: list[list[list[int]]] = []
        for trial in range(_TRIALS if wanted > 1 else 1):
            missing = [image for image, found in enumerate(self.found) for _ in range(wanted - len(found))]
            if not missing:
                break
            self.trial = trial
            ranked = run_loop(prefixes, torch.tensor(missing, device=embedding.device), self, max_tokens)
        return ranked

    def reset(self, images: torch.Tensor, limit: int) -> None:
        """Begin, with the random numbers of each row."""
        super().reset(images, limit)
        self.images = images.tolist()
        self.scores = torch.zeros(len(images), dtype=torch.double)
        begun: Counter[int] = Counter()
        numbers = []
        for image in self.images:
            stream = f"{self.options.seed} {self.trial} {begun[image]}"
            numbers.append(_uniform(self.embedding[image], stream, limit))
            begun[image] += 1
        self.uniform = torch.stack(numbers)

    def pick(self, tokens: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        """Draw the next token of each row after penalty, temperature, top-k and top-p, in this order."""
        options = self.options
        # On the CPU in double precision: the running sum over the vocabulary would lose small probabilities.
        exact = logits.cpu().double()
        shaped = penalize_repetition(exact, tokens.cpu(), options.repetition_penalty)
        if options.temperature != 1:
            shaped = shaped / options.temperature
        shaped = keep_nucleus(keep_likeliest(shaped, options.top_k), options.top_p)
        drawn = _draw(shaped, self.uniform[:, tokens.shape[1]])
        log_probs = exact.log_softmax(dim=-1).gather(1, drawn[:, None])[:, 0]
        self.scores += torch.where(self.open.cpu(), log_probs, 0.0)
        return drawn.to(logits.device)

    def finalize(self, tokens: torch.Tensor) -> list[list[list[int]]]:
        """The captions of each image that this run and those before it found, best first."""
        means = (self.scores / self.lengths.cpu()).tolist()
        for image, row, mean in zip(self.images, self.rows(tokens), means, strict=True):
            self.found[image].setdefault(self.text(row, self.tokenizer), (mean, row))
        return [[row for _, row in sorted(found.values(), key=lambda scored: -scored[0])] for found in self.found]


def _uniform(embedding: torch.Tensor, stream: str, count: int) -> torch.Tensor:
    """Random numbers in [0, 1), float64 (count), that depend on the embedding and the stream alone."""
    content = embedding.float().cpu().numpy().tobytes()
    seed = int.from_bytes(hashlib.sha256(stream.encode() + content).digest()[:8], "big") >> 1
    return torch.rand(count, dtype=torch.double, generator=torch.Generator().manual_seed(seed))


def _draw(logits: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
    """The token of each row, int64 (R), at which the running sum of probabilities passes its random number.

    Args:
        logits: float64 (R, V).
        uniform: float64 (R), numbers in [0, 1).
    """
    running = logits.softmax(dim=-1).cumsum(dim=-1)
    return torch.searchsorted(running, (uniform * running[:, -1])[:, None], right=True)[:, 0]
