"""Measures a model on images that it did not train on: its loss, how much it uses the image, and a few captions."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from clipcap.data.pretrained.device import autocast
from clipcap.data.spaced import spaced
from clipcap.train.corpus.captions import Corpus, in_order
from clipcap.train.corpus.embeddings import Embeddings
from clipcap.train.model.captioning import ClipCapModel
from clipcap.train.packed.loss import PackedLoss

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

IMAGES = 1000  # images to validate on; more take time and hardly change the figures
SAMPLES = 3  # images that are captioned
SAMPLE_TOKENS = 40
SMALL_GAP = 0.02  # nats; the image gap of a model that uses the image is far larger

Numbers = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Validation:
    """The figures and captions of one validation.

    Attributes:
        loss: mean over all tokens of all captions, in nats.
        image_gap: the loss with each image's embedding exchanged for that of another image, minus `loss`, in nats. Near
            zero, the model ignores the image. None if there is only one image.
        samples: (path, caption of the model, first reference) of a few images.
    """

    loss: float
    image_gap: float | None
    samples: list[tuple[str, str, str]]


def validation_images(corpus: Corpus) -> Numbers:
    """Return the images to validate on: at most `IMAGES` of those that have captions, int64, ascending."""
    return spaced(np.unique(corpus.image), IMAGES)


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
    """Validate a model on at most `IMAGES` images of a corpus. Random numbers are not drawn.

    Args:
        model: the model, on `device`. It is in evaluation mode afterwards.
        corpus: the captions and embeddings, on `device`.
        tokenizer: decodes the samples.
        batch_size: captions in a forward pass.
        device: the model's device.
        precision: `fp32`, `bf16` or `fp16`.
        stopped: called before each batch; the validation ends without a result if it returns True.

    Returns:
        The result, or None if it was stopped.
    """
    model.eval()
    images = validation_images(corpus)
    # Each image gets the embedding of the image half a turn away, which is never itself if there are two or more.
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
        samples=_samples(model, corpus, tokenizer, spaced(np.unique(corpus.image), SAMPLES), device, precision),
    )


def _samples(
    model: ClipCapModel,
    corpus: Corpus,
    tokenizer: "PreTrainedTokenizerBase",
    images: Numbers,
    device: torch.device,
    precision: str,
) -> list[tuple[str, str, str]]:
    captions = greedy_captions(model, corpus, tokenizer, images, device, precision)
    references = [corpus.text[int(np.argmax(corpus.image == image))] for image in images]
    paths = [corpus.path[int(image)] for image in images]
    return list(zip(paths, captions, references, strict=True))


def greedy_captions(
    model: ClipCapModel,
    corpus: Corpus,
    tokenizer: "PreTrainedTokenizerBase",
    images: Numbers,
    device: torch.device,
    precision: str,
) -> list[str]:
    """Caption images of a corpus greedily, in one batch, with at most `SAMPLE_TOKENS` tokens each.

    Args:
        model: in evaluation mode, on `device`.
        corpus: holds the embeddings, on `device`.
        tokenizer: turns tokens into text.
        images: int64 (B), indices of images.
        device: the model's device.
        precision: `fp32`, `bf16` or `fp16`.
    """
    embedding = corpus.embedding[images]
    with torch.inference_mode(), autocast(device, precision):
        tokens = model.continue_prefix(embedding, max_new_tokens=SAMPLE_TOKENS)
    return [str(tokenizer.decode(row, skip_special_tokens=True)).strip() for row in tokens]


@dataclass(frozen=True)
class _Exchanged:
    """Embeddings in which image i has the embedding of image `of[i]`."""

    embedding: Embeddings
    of: Numbers

    def __len__(self) -> int:
        return len(self.embedding)

    def __getitem__(self, images: Numbers) -> torch.Tensor:
        return self.embedding[self.of[images]]
