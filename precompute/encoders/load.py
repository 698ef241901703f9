"""Loads a frozen image encoder by its name."""

import importlib

import torch

from clipcap.precompute.encoders.base import Encoder
from clipcap.precompute.encoders.clip import load_clip_encoder
from clipcap.precompute.encoders.clip_choice import choose_encoder
from clipcap.precompute.encoders.timm import load_timm_encoder, timm_names
from clipcap.precompute.settings import TIMM


def load_encoder(
    name: str,
    pretrained: str | None = None,
    *,
    device: torch.device,
    precision: str = "fp32",
    features: str = "projected",
    quick_gelu: bool = False,
) -> Encoder:
    """Load a frozen image encoder, from open_clip or timm.

    Args:
        name: as for `load_clip_encoder`, or `timm:NAME` as for `load_timm_encoder`.
        pretrained: weights, in place of the default ones.
        device: where the encoder runs.
        precision: `auto`, which is what suits the encoder and the device, `fp32`, `bf16` or `fp16`.
        features: `projected`, the embedding that CLIP compares with texts; `pooled`, one embedding before a projection
            or a classifier; or `patches`, an embedding for each patch.
        quick_gelu: as for `load_clip_encoder`.

    Raises:
        UsageError: the tag or the kind of features is not known, or the encoder has no such features.
        ModelError: the architecture is not known, or its weights cannot be loaded or do not fit it.
    """
    if name.startswith(TIMM):
        return load_timm_encoder(name, pretrained, device=device, precision=precision, features=features)
    return load_clip_encoder(
        name, pretrained, device=device, precision=precision, features=features, quick_gelu=quick_gelu
    )


def encoder_names(name: str, pretrained: str | None) -> tuple[str, str | None]:
    """Return the name and the weights that a loaded encoder would have, as a fingerprint records them; load nothing.

    Args:
        name, pretrained: as for `load_encoder`.

    Returns:
        Both; None for weights that only loading tells.

    Raises:
        UsageError, ModelError: the architecture or the tag is not known.
    """
    if name.startswith(TIMM):
        return timm_names(name, pretrained)
    choice = choose_encoder(importlib.import_module("open_clip"), name, pretrained)
    return choice.name, choice.pretrained
