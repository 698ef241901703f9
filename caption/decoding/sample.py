"""Sampling.

B images, n captions of each, R rows, V vocabulary.
"""

import hashlib
from collections import Counter
from collections.abc import Sequence
from typing import ClassVar

import torch

from clipcap.caption.decoding.base import RowStrategy
from clipcap.caption.decoding.rules import keep_likeliest, keep_nucleus, penalize_repetition
from clipcap.train.model.captioning import ClipCapModel

_TRIALS = 10  # runs of the loop for an image, until it has n distinct captions


class Sample(RowStrategy):
    """Draws each token by its probability: distinct captions, the one with the highest mean log-probability first.

    The random numbers of a caption depend on the seed and the embedding alone, so that the caption does not depend on
    the images beside it in a batch.

    Attributes:
        embedding: of all images, float (B, d) or (B, t, d).
        trial: number of the run of the loop, from 0.
        begun: how many rows of each image have begun in this run.
        device: where tokens are drawn, and where the next two are.
        uniform: float64 (R, limit), the random numbers of each row.
        scores: float64 (R), sum of the log-probabilities of each row, as the model gave them.
        found: of each image its distinct captions so far: text to mean log-probability and tokens.
    """

    own_options: ClassVar[frozenset[str]] = frozenset({"temperature", "top_p", "top_k", "seed"})

    embedding: torch.Tensor
    trial: int
    begun: Counter[int]
    device: torch.device
    uniform: torch.Tensor
    scores: torch.Tensor
    found: list[dict[str, tuple[float, list[int]]]]

    def search(self, model: ClipCapModel, embedding: torch.Tensor, at_once: int) -> None:
        """Run the loop until each image has n distinct captions, but for images with which the model hardly varies."""
        self.embedding, self.found = embedding, [{} for _ in embedding]
        wanted = self.options.captions
        for trial in range(_TRIALS if wanted > 1 else 1):
            # At first each image has a row for each caption; later a caption that is missing has a row of its own.
            self.trial, self.rows_per_image = trial, 1 if trial else wanted
            rows = [1 if trial == 0 else wanted - len(found) for found in self.found]
            missing = [image for image, count in enumerate(rows) for _ in range(count)]
            if not missing:
                break
            self.run(model, embedding, missing, at_once if trial == 0 else at_once * wanted)
        for image, found in enumerate(self.found):
            self.captions_of[image] = [row for _, row in sorted(found.values(), key=lambda scored: -scored[0])]

    def reset(self, device: torch.device, limit: int) -> None:
        """Begin, with no row."""
        super().reset(device, limit)
        self.begun = Counter()
        self.device = drawing_device(device)
        self.scores = torch.empty(0, dtype=torch.double, device=self.device)
        self.uniform = torch.empty(0, limit, dtype=torch.double, device=self.device)

    def add(self, images: Sequence[int]) -> None:
        """Add rows, with the random numbers of each."""
        super().add(images)
        numbers = []
        for image in images:
            for _ in range(self.rows_per_image):
                stream = f"{self.options.seed} {self.trial} {self.begun[image]}"
                numbers.append(_uniform(self.embedding[image], stream, self.limit))
                self.begun[image] += 1
        self.scores = torch.cat([self.scores, self.scores.new_zeros(len(numbers))])
        self.uniform = torch.cat([self.uniform, torch.stack(numbers).to(self.device)])

    def keep(self, rows: torch.Tensor) -> None:
        """Keep the state of these rows alone, int64 (R')."""
        super().keep(rows)
        rows = rows.to(self.device)
        self.scores, self.uniform = self.scores[rows], self.uniform[rows]

    def pick(self, tokens: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        """Draw the next token of each row after penalty, temperature, top-k and top-p, in this order."""
        options = self.options
        # In double precision: the running sum over the vocabulary would lose small probabilities.
        exact = logits.to(self.device).double()
        shaped = penalize_repetition(exact, tokens.to(self.device), options.repetition_penalty)
        if options.temperature != 1:
            shaped = shaped / options.temperature
        shaped = keep_nucleus(keep_likeliest(shaped, options.top_k), options.top_p)
        # The length of an open row is the number of its tokens, and so of the random numbers that it has used.
        drawn = _draw(shaped, self.uniform.gather(1, self.lengths.to(self.device)[:, None])[:, 0])
        log_probs = exact.log_softmax(dim=-1).gather(1, drawn[:, None])[:, 0]
        self.scores = self.scores + torch.where(self.open.to(self.device), log_probs, 0.0)
        return drawn.to(logits.device)

    def finish(self, image: int, rows: list[list[int]], places: range) -> None:
        """Add the captions of an image, unless it has them already."""
        scores = self.scores[places.start : places.stop].tolist()
        for row, score in zip(rows, scores, strict=True):
            self.found[image].setdefault(self.text(row, self.tokenizer), (score / len(row), row))


def drawing_device(device: torch.device) -> torch.device:
    """The device on which tokens are drawn, given that of the model: Apple's GPUs have no float64."""
    return torch.device("cpu") if device.type == "mps" else device


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
