"""Loads a frozen image encoder by its name."""

import torch

from clipcap.precompute.encoders.base import Encoder
from clipcap.precompute.encoders.clip import load_clip_encoder


def load_encoder(
    name: str,
    pretrained: str | None = None,
    *,
    device: torch.device,
    precision: str = "fp32",
    features: str = "projected",
    quick_gelu: bool = False,
) -> Encoder:
    """Load a frozen image encoder.

    Args:
        name: as for `load_clip_encoder`.
    """
    return load_clip_encoder(
        name, pretrained, device=device, precision=precision, features=features, quick_gelu=quick_gelu
    )
