"""Checks of a model on the images of a cache: whether it uses the image, whether its captions differ, and its prefix.

B images, K positions of the prefix, D width of the language model, V vocabulary.
"""

import logging
import math
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from clipcap.caption.inspect.doctor.finding import Facts, Finding, first_examples
from clipcap.data.command.progress import plural
from clipcap.data.errors import UsageError
from clipcap.data.records import SPLITS
from clipcap.data.spaced import spaced

if TYPE_CHECKING:
    from clipcap.caption.captioner import Captioner
    from clipcap.train.corpus.captions import Corpus

logger = logging.getLogger(__name__)

CAPTIONED = 200  # images that are captioned, to see how many distinct captions there are
COLLAPSED = 0.1  # distinct captions for each distinct reference: the demo's model has one for each
FEWEST = 10  # images; among fewer, the same caption may be right for all
WORDS_SHOWN = 3  # images whose prefix is shown as words
VALIDATION_BATCH = 64  # captions in a forward pass


@dataclass(frozen=True, kw_only=True)
class Examined:
    """A model with the images that it is examined on.

    Attributes:
        path: the checkpoint, as it was given.
        cache: the cache, as it was given.
        captioner: the model.
        split: the split of the images.
        corpus: their embeddings and captions, on the captioner's device.
    """

    path: Path
    cache: Path
    captioner: "Captioner"
    split: str
    corpus: "Corpus"


def open_checkpoint(path: Path, cache: Path, captioner: "Captioner") -> Examined:
    """Read the captions of the validation split of a cache, or of the test or the training split if it has none.

    Args:
        path: the checkpoint.
        cache: the index of a cache, made with the encoder that the model was trained on.
        captioner: the model of the checkpoint.

    Raises:
        CacheError: the cache is damaged, or is not one.
        CheckpointError: the cache was made with another encoder.
        UsageError: the cache has no captions.
    """
    from clipcap.data.pretrained.tokenizer import tokenizer_sha256
    from clipcap.train.corpus.captions import load_corpora

    opened = captioner.open_cache(cache)
    longest = captioner.model.gpt.config.n_positions - captioner.config.mapper.prefix_length
    same = tokenizer_sha256(captioner.tokenizer) == opened.fingerprint.tokenizer_sha256
    corpora = load_corpora(opened, longest, None if same else captioner.tokenizer, device=captioner.device, stream=True)
    for split in ("val", "test", *SPLITS):
        if split in corpora:
            return Examined(path=path, cache=cache, captioner=captioner, split=split, corpus=corpora[split])
    raise UsageError(f"{cache} has no captions, so no checkpoint can be examined with it; give another `cache`")


def check_weights(captioner: "Captioner", path: Path) -> Iterator[Finding]:
    """Find weights that are not finite."""
    state = captioner.model.state_dict()
    bad = [name for name, tensor in state.items() if tensor.is_floating_point() and not bool(tensor.isfinite().all())]
    if bad:
        yield Finding(
            check="weights",
            count=len(bad),
            total=len(state),
            message=f"{len(bad):,} of {len(state):,} tensors hold numbers that are not finite",
            cause="a training run that diverged, or a file that was changed",
            fix=f"clipcap-train CACHE `output` {path} `overwrite` `lr` NUMBER, with a lower learning rate",
            examples=first_examples(bad),
        )


def check_image_gap(examined: Examined, facts: Facts) -> Iterator[Finding]:
    """Find a loss that is not finite, and a model that ignores the image: other images hardly raise its loss."""
    from clipcap.train.validate import SMALL_GAP, validate

    captioner = examined.captioner
    logger.info(f"measuring the loss on the {examined.split} split")
    result = validate(
        captioner.model,
        examined.corpus,
        captioner.tokenizer,
        batch_size=VALIDATION_BATCH,
        device=captioner.device,
        precision=captioner.precision,
    )
    assert result is not None
    facts["loss"], facts["image_gap"] = _rounded(result.loss, 4), _rounded(result.image_gap, 4)
    if not math.isfinite(result.loss):
        yield Finding(
            check="loss",
            count=examined.corpus.images,
            total=examined.corpus.images,
            message=f"the loss on the {examined.split} split is not finite, and all weights are",
            cause="embeddings of the cache that are not finite",
            fix=f"clipcap-inspect {examined.cache} `doctor`",
        )
    elif result.image_gap is not None and not result.image_gap >= SMALL_GAP:
        yield Finding(
            check="image_gap",
            count=examined.corpus.images,
            total=examined.corpus.images,
            message=f"the model hardly uses the image: with other images its loss grows by {result.image_gap:.4f} nats "
            f"a token, from {result.loss:.4f}",
            cause="a run that was too short, or captions that do not belong to the images that it was trained on",
            fix=f"clipcap-inspect {examined.cache} `doctor`, then clipcap-train {examined.cache} `epochs` N with more "
            "epochs",
        )


def check_collapse(examined: Examined, facts: Facts) -> Iterator[Finding]:
    """Find a model that writes the same few captions for all images."""
    from clipcap.caption.decoding.options import DecodeOptions

    captioner, corpus = examined.captioner, examined.corpus
    images = spaced(np.unique(corpus.image), CAPTIONED)
    logger.info(f"captioning {plural(len(images), 'image')}")
    embedding = corpus.embedding[images]
    captions = [found[0] for found in captioner.caption(embedding, captioner.strategy("greedy", DecodeOptions()))]
    references = {corpus.text[int(np.argmax(corpus.image == image))] for image in images}
    counts = Counter(captions)
    facts["captioned_images"], facts["distinct_captions"] = len(images), len(counts)
    facts["distinct_references"] = len(references)
    if len(images) >= FEWEST and len(counts) <= max(1, COLLAPSED * len(references)):
        yield Finding(
            check="collapse",
            count=len(counts),
            total=len(images),
            message=f"the model writes {plural(len(counts), 'distinct caption')} for {plural(len(images), 'image')}, "
            f"which have {len(references):,} distinct references",
            cause="a run that was too short, a learning rate that was too high, or captions of other images",
            fix=f"clipcap-train {examined.cache} `epochs` N `lr` NUMBER, with more epochs or a lower learning rate",
            examples=first_examples([f"{text!r}: {count:,} images" for text, count in counts.most_common()]),
        )


def show_prefix_words(examined: Examined, facts: Facts) -> Iterator[Finding]:
    """Show the token whose embedding is nearest to each vector of the prefix, by cosine. Any words can be healthy."""
    import torch
    from torch.nn.functional import normalize

    captioner, corpus = examined.captioner, examined.corpus
    images = spaced(np.unique(corpus.image), WORDS_SHOWN)
    with torch.inference_mode():
        prefix = captioner.model.clip_project(corpus.embedding[images])  # (B, K, D)
        words = normalize(captioner.model.gpt.transformer.wte.weight, dim=-1)  # (V, D)
        cosine, token = (normalize(prefix, dim=-1) @ words.T).max(dim=-1)  # (B, K)
    facts["nearest_words_of_the_prefix"] = {
        corpus.path[int(image)]: [
            {"word": str(captioner.tokenizer.decode([t])), "cosine": _rounded(c, 3)}
            for t, c in zip(tokens, cosines, strict=True)
        ]
        for image, tokens, cosines in zip(images, token.tolist(), cosine.tolist(), strict=True)
    }
    yield from ()


def _rounded(figure: float | None, digits: int) -> float | None:
    """Round a figure. None is returned for one that is not known or not finite, since JSON has no NaN."""
    return round(figure, digits) if figure is not None and math.isfinite(figure) else None


CHECKPOINT_CHECKS: tuple[Callable[[Examined, Facts], Iterator[Finding]], ...] = (
    check_image_gap,
    check_collapse,
    show_prefix_words,
)
