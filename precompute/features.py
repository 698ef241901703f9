"""Kinds of features: what of an image tower's work is cached. A new one is its function and its line in `FEATURES`.

B pictures, d numbers in an embedding, t patches.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from clipcap.data.errors import UsageError

if TYPE_CHECKING:
    import torch
    from torch import nn

Forward = Callable[["torch.Tensor"], "torch.Tensor"]


def projected(tower: "nn.Module") -> Forward:
    """The embedding that CLIP compares with texts: float (B, d)."""

    def forward(batch: "torch.Tensor") -> "torch.Tensor":
        output: Any = tower(batch)
        embedding: torch.Tensor = output[0] if isinstance(output, tuple) else output  # CoCa's gives its tokens too
        return embedding

    return forward


def pooled(tower: "nn.Module") -> Forward:
    """The embedding before its projection: float (B, d).

    Of a ViT it is what transformers' CLIPVisionModel calls `pooler_output`. The projection is taken out of `tower`.

    Raises:
        UsageError: the tower has no projection that can be left out.
    """
    from torch import nn

    part: Any = tower
    if hasattr(tower, "proj"):  # open_clip's ViT
        part.proj = None
    elif hasattr(tower, "attnpool"):  # its ResNets, whose attention pool ends in the projection
        width = part.attnpool.c_proj.in_features
        part.attnpool.c_proj = nn.Linear(width, width)
        nn.init.eye_(part.attnpool.c_proj.weight)
        nn.init.zeros_(part.attnpool.c_proj.bias)
    elif hasattr(tower, "trunk") and not hasattr(part.head, "pool"):  # timm's towers, as SigLIP's
        part.head = nn.Identity()
        part.trunk.reset_classifier(0)
    else:
        raise UsageError(
            "--features pooled: this encoder has no projection that could be left out; use projected or patches"
        )
    return projected(part.requires_grad_(False))


def patches(tower: "nn.Module") -> Forward:
    """An embedding of each patch of the picture, row by row, after the tower's last norm: float (B, t, d).

    No class token is among them. Of a ResNet they are the positions of its last feature map.

    Raises:
        UsageError: the tower does not show its patches.
    """
    part: Any = tower
    if not hasattr(tower, "forward_intermediates") or getattr(part, "attn_pool", None) is not None:
        raise UsageError("--features patches: this encoder does not show its patches; use projected or pooled")

    def forward(batch: "torch.Tensor") -> "torch.Tensor":
        found = part.forward_intermediates(batch, indices=1, normalize_intermediates=True, intermediates_only=True)
        grid: torch.Tensor = found["image_intermediates"][-1]  # (B, d, rows, columns)
        return grid.flatten(2).transpose(1, 2)

    return forward


FEATURES: dict[str, Callable[["nn.Module"], Forward]] = {
    "projected": projected,
    "pooled": pooled,
    "patches": patches,
}
