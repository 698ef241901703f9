"""Finds the encoder that a model was trained on: loads it, or chooses its embeddings in a cache, and checks them."""

from dataclasses import replace
from pathlib import Path

import torch

from clipcap.data.cache.fingerprint import UNKNOWN, Fingerprint
from clipcap.data.cache.index import Cache
from clipcap.data.errors import CheckpointError
from clipcap.precompute.encoders.base import Encoder
from clipcap.precompute.encoders.load import load_encoder
from clipcap.train.model.checkpoint import CheckpointConfig


def load_trained_encoder(
    config: CheckpointConfig, name: str | None, pretrained: str | None, *, device: torch.device, precision: str
) -> Encoder:
    """Load the encoder whose embeddings a model takes.

    Args:
        config: the checkpoint's configuration.
        name: the architecture, if the checkpoint does not record it, or another one is to be used.
        pretrained: the weights, if they are no longer where the checkpoint records them.
        device, precision: as for `load_encoder`.

    Raises:
        ModelError: it cannot be loaded.
        CheckpointError: the encoder is not recorded, its embeddings have another shape, or its weights are not those
            that the model was trained on.
    """
    trained_on = config.encoder
    if (name or trained_on.encoder) == UNKNOWN:
        raise CheckpointError(
            "this model was trained on embeddings whose encoder is not recorded; give the `encoder`, or caption rows "
            "(.npy, .npz, .pkl) or a cache of the same encoder"
        )
    # Another architecture comes with its own weights.
    pretrained = pretrained or (None if name else trained_on.pretrained)
    if pretrained is not None and Path(pretrained).is_absolute() and not Path(pretrained).exists():
        raise CheckpointError(
            f"the CLIP weights that this model was trained on are no longer at {pretrained}; give the "
            "file as `pretrained`"
        )
    encoder = load_encoder(
        name or trained_on.encoder,
        pretrained,
        device=device,
        precision=precision,
        features=trained_on.features,
        quick_gelu=trained_on.quick_gelu and not name,
    )
    if encoder.shape != config.mapper.embedding_shape:
        made, taken = (" x ".join(map(str, shape)) for shape in (encoder.shape, config.mapper.embedding_shape))
        raise CheckpointError(
            f"{encoder.name} makes embeddings of {made} numbers, this model takes {taken}; give another `encoder`"
        )
    now = replace(
        trained_on,
        encoder=encoder.name,
        weights_sha256=encoder.weights_sha256,
        quick_gelu=encoder.quick_gelu,
        preprocess=encoder.preprocess,
    )
    differences = trained_on.encoder_differences(now) if trained_on.checked else []
    if differences:
        raise CheckpointError(
            f"{encoder.pretrained} is not the encoder that this model was trained on ({differences[0]}); give the "
            "right weights as `pretrained`"
        )
    return encoder


def choose_embeddings(cache: Cache, trained_on: Fingerprint) -> tuple[Cache, list[str]]:
    """Choose the embeddings of a cache that a model takes.

    Args:
        cache: of one encoder, or of several.
        trained_on: the fingerprint of the model.

    Returns:
        The cache with the embeddings of the first encoder that fits, or of its first encoder; and what makes them
        others than those that the model was trained on.
    """
    found: list[tuple[Cache, list[str]]] = []
    for one in cache.by_encoder().values():
        # A model that was trained on rows of length 1 scales rows of any length.
        fingerprint = replace(one.fingerprint, normalized=True) if trained_on.normalized else one.fingerprint
        found.append((one, trained_on.encoder_differences(fingerprint)))
    return next((one for one in found if not one[1]), found[0])
