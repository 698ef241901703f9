"""How good a model is: its loss on new pictures, whether it looks at them, and what it says of a few."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from clipcap.data.pretrained.device import autocast
from clipcap.train.corpus.captions import Corpus, in_order
from clipcap.train.corpus.embeddings import Embeddings
from clipcap.train.model.captioning import ClipCapModel
from clipcap.train.packed.loss import PackedLoss

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

IMAGES = 1000  # pictures that are validated on; more would cost more than they tell
SAMPLES = 3
SAMPLE_TOKENS = 40

Numbers = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Validation:
    """What one validation found.

    Attributes:
        loss: mean over all tokens of all captions, in nats.
        image_gap: the loss with every picture's embedding exchanged for another's, minus `loss`; None where there is no
            other. Near zero, the model ignores the picture.
        samples: (path, caption that the model says, first reference) of a few pictures.
    """

    loss: float
    image_gap: float | None
    samples: list[tuple[str, str, str]]


def spaced(rows: Numbers, count: int) -> Numbers:
    """At most `count` of the rows, evenly spaced."""
    count = min(count, len(rows))
    return rows[np.arange(count) * len(rows) // max(1, count)]


@torch.no_grad()
def validate(
    model: ClipCapModel,
    corpus: Corpus,
    tokenizer: "PreTrainedTokenizerBase",
    *,
    batch_size: int,
    device: torch.device,
    precision: str,
    stopped: Callable[[], bool] = lambda: False,
) -> Validation | None:
    """Validate on at most `IMAGES` pictures of a corpus. Leaves the model in evaluation mode; draws no random numbers.

    Args:
        model: on `device`.
        corpus: on `device`.
        tokenizer: for the samples.
        batch_size: captions in a forward pass.
        device, precision: of the arithmetic.
        stopped: asked between batches; when it says so, validation ends without a result.

    Returns:
        What was found, or None where it was stopped.
    """
    model.eval()
    captioned = np.unique(corpus.image)  # a picture without captions has nothing to say here
    images = spaced(captioned, IMAGES)
    # Every picture gets the embedding of the one half-way round: never its own.
    exchanged = np.arange(len(corpus.embedding))
    exchanged[images] = np.roll(images, len(images) // 2)
    elsewhere = replace(corpus, embedding=_Exchanged(corpus.embedding, exchanged))
    loss, prefix_length = PackedLoss(model), model.clip_project.config.prefix_length
    total, total_exchanged, count = 0.0, 0.0, 0
    for captions in in_order(corpus, images, batch_size):
        if stopped():
            return None
        with autocast(device, precision):
            total += float(loss(corpus.packed(captions, prefix_length)))
            total_exchanged += float(loss(elsewhere.packed(captions, prefix_length)))
        count += int(corpus.length[captions].sum())
    return Validation(
        loss=total / count,
        image_gap=(total_exchanged - total) / count if len(images) > 1 else None,
        samples=_samples(model, corpus, tokenizer, spaced(captioned, SAMPLES), device, precision),
    )


def _samples(
    model: ClipCapModel,
    corpus: Corpus,
    tokenizer: "PreTrainedTokenizerBase",
    images: Numbers,
    device: torch.device,
    precision: str,
) -> list[tuple[str, str, str]]:
    with autocast(device, precision):
        tokens = model.continue_prefix(corpus.embedding[images], max_new_tokens=SAMPLE_TOKENS)
    captions = [str(tokenizer.decode(row, skip_special_tokens=True)).strip() for row in tokens]
    references = [corpus.text[int(np.argmax(corpus.image == image))] for image in images]
    paths = [corpus.path[int(image)] for image in images]
    return list(zip(paths, captions, references, strict=True))


@dataclass(frozen=True)
class _Exchanged:
    """Embeddings of others in the places of some: those of picture `of[i]` for picture i."""

    embedding: Embeddings
    of: Numbers

    def __len__(self) -> int:
        return len(self.embedding)

    def __getitem__(self, images: Numbers) -> torch.Tensor:
        return self.embedding[self.of[images]]
