"""How good a model is.

Its loss on pictures it was not trained on, whether it looks at them, and what it says of a few.
"""

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
        image_gap: the loss with every picture's embedding exchanged for another's, minus `loss`. Near zero, the
            model ignores the picture.
        samples: (path, caption that the model says, first reference) of a few pictures.
    """

    loss: float
    image_gap: float
    samples: list[tuple[str, str, str]]


def spaced(total: int, count: int) -> torch.Tensor:
    """At most `count` numbers below `total`, evenly spaced, int64."""
    count = min(count, total)
    return torch.arange(count) * total // max(1, count)


@torch.no_grad()
def validate(
    model: ClipCapModel,
    corpus: Corpus,
    tokenizer: "PreTrainedTokenizerBase",
    *,
    batch_size: int,
    device: torch.device,
    precision: str,
) -> Validation:
    """Validate on at most `IMAGES` pictures of a corpus. Leaves the model in evaluation mode.

    Draws no random numbers.
    """
    model.eval()
    images = spaced(len(corpus.embedding), IMAGES)
    # Every picture gets the embedding of the one half-way round: never its own (with one picture there is no other).
    exchanged = torch.arange(len(corpus.embedding))
    exchanged[images] = images.roll(len(images) // 2)
    total, total_exchanged, count = 0.0, 0.0, 0
    for captions in in_order(corpus, images, batch_size):
        batch = corpus.batch(captions)
        other = corpus.embedding[exchanged.to(corpus.image.device)[corpus.image[captions]]].float()
        with autocast(device, precision):
            losses = model.token_losses(*batch)
            losses_exchanged = model.token_losses(other, batch.tokens, batch.lengths)
        total += float(losses.double().sum())
        total_exchanged += float(losses_exchanged.double().sum())
        count += len(losses)
    return Validation(
        loss=total / count,
        image_gap=(total_exchanged - total) / count,
        samples=_samples(model, corpus, tokenizer, device, precision),
    )


def _samples(
    model: ClipCapModel, corpus: Corpus, tokenizer: "PreTrainedTokenizerBase", device: torch.device, precision: str
) -> list[tuple[str, str, str]]:
    images = spaced(len(corpus.embedding), SAMPLES)
    with autocast(device, precision):
        tokens = model.continue_prefix(corpus.embedding[images.to(device)].float(), max_new_tokens=SAMPLE_TOKENS)
    captions = [str(tokenizer.decode(row, skip_special_tokens=True)).strip() for row in tokens]
    references = {int(image): corpus.text[i] for i, image in reversed(list(enumerate(corpus.image.tolist())))}
    return [
        (corpus.path[int(image)], caption, references.get(int(image), ""))
        for image, caption in zip(images, captions, strict=True)
    ]
