"""How good a model is: its loss on new pictures, whether it looks at them, and what it says of a few."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from clipcap.data.device import autocast
from clipcap.train.corpus import Corpus, in_order
from clipcap.train.model import ClipCapModel

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

IMAGES = 1000  # pictures that are validated on; more would cost more than they tell
SAMPLES = 3
SAMPLE_TOKENS = 40


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


def spaced(rows: torch.Tensor, count: int) -> torch.Tensor:
    """At most `count` of the rows, evenly spaced."""
    count = min(count, len(rows))
    return rows[torch.arange(count, device=rows.device) * len(rows) // max(1, count)]


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
    captioned = corpus.image.unique()  # a picture without captions has nothing to say here
    images = spaced(captioned, IMAGES)
    # Every picture gets the embedding of the one half-way round: never its own.
    exchanged = torch.arange(len(corpus.embedding), device=images.device)
    exchanged[images] = images.roll(len(images) // 2)
    total, total_exchanged, count = 0.0, 0.0, 0
    for captions in in_order(corpus, images, batch_size):
        if stopped():
            return None
        batch = corpus.batch(captions)
        other = corpus.embedding[exchanged[corpus.image[captions]]].float()
        with autocast(device, precision):
            losses = model.token_losses(*batch)
            losses_exchanged = model.token_losses(other, batch.tokens, batch.lengths)
        total += float(losses.cpu().double().sum())
        total_exchanged += float(losses_exchanged.cpu().double().sum())
        count += len(losses)
    return Validation(
        loss=total / count,
        image_gap=(total_exchanged - total) / count if len(images) > 1 else None,
        samples=_samples(model, corpus, tokenizer, spaced(captioned, SAMPLES), device, precision),
    )


def _samples(
    model: ClipCapModel,
    corpus: Corpus,
    tokenizer: "PreTrainedTokenizerBase",
    images: torch.Tensor,
    device: torch.device,
    precision: str,
) -> list[tuple[str, str, str]]:
    with autocast(device, precision):
        tokens = model.continue_prefix(corpus.embedding[images].float(), max_new_tokens=SAMPLE_TOKENS)
    captions = [str(tokenizer.decode(row, skip_special_tokens=True)).strip() for row in tokens]
    references = [corpus.text[int((corpus.image == image).nonzero()[0])] for image in images]
    return [
        (corpus.path[int(i)], *said) for i, said in zip(images, zip(captions, references, strict=True), strict=True)
    ]
