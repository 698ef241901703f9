"""Kinds of features: which output of an image tower is cached. A new kind is a function and a line in `FEATURES`.

    pixels -> [ViT] -> class token + patches -> norm +-> each patch ------------------> patches    (B, t, d)
                                                     +-> class token -----------------> pooled     (B, d)
                                                                     +-> projection --> projected  (B, d)

Each function takes an image tower of open_clip, and returns the function from pixels, float (B, 3, H, W), to features.
B images, d numbers in an embedding (another d for each kind), t patches.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from clipcap.data.errors import UsageError

if TYPE_CHECKING:
    import torch
    from torch import nn

Forward = Callable[["torch.Tensor"], "torch.Tensor"]


def projected(tower: "nn.Module") -> Forward:
    """Return the embedding that CLIP compares with texts: float (B, d)."""

    def forward(batch: "torch.Tensor") -> "torch.Tensor":
        output: Any = tower(batch)
        embedding: torch.Tensor = output[0] if isinstance(output, tuple) else output  # CoCa returns its tokens too
        return embedding

    return forward


def pooled(tower: "nn.Module") -> Forward:
    """Return the embedding before its projection: float (B, d).

    For a ViT this is the `pooler_output` of transformers' CLIPVisionModel. The projection is removed from `tower`.

    Raises:
        UsageError: the tower has no projection that can be removed.
    """
    from torch import nn

    visual: Any = tower
    if hasattr(tower, "proj"):  # open_clip's ViT
        visual.proj = None
    elif hasattr(tower, "attnpool"):  # open_clip's ResNet, whose attention pool ends with the projection
        width = visual.attnpool.c_proj.in_features
        visual.attnpool.c_proj = nn.Linear(width, width)
        nn.init.eye_(visual.attnpool.c_proj.weight)
        nn.init.zeros_(visual.attnpool.c_proj.bias)
    elif hasattr(tower, "trunk") and not hasattr(visual.head, "pool"):  # a tower of timm, such as SigLIP's
        visual.head = nn.Identity()
        visual.trunk.reset_classifier(0)
    else:
        raise UsageError(
            "`features` pooled: this encoder has no projection that can be removed; use projected or patches"
        )
    return projected(visual.requires_grad_(False))


def patches(tower: "nn.Module") -> Forward:
    """Return an embedding for each patch of the image, row by row, after the tower's last norm: float (B, t, d).

    The class token is not among them. The patches of a ResNet are the positions of its last feature map.

    Raises:
        UsageError: the tower does not return its patches.
    """
    visual: Any = tower
    if not hasattr(tower, "forward_intermediates") or getattr(visual, "attn_pool", None) is not None:
        raise UsageError("`features` patches: this encoder does not return its patches; use projected or pooled")

    def forward(batch: "torch.Tensor") -> "torch.Tensor":
        found = visual.forward_intermediates(batch, indices=1, normalize_intermediates=True, intermediates_only=True)
        grid: torch.Tensor = found["image_intermediates"][-1]  # (B, d, rows, columns)
        return grid.flatten(2).transpose(1, 2)

    return forward


FEATURES: dict[str, Callable[["nn.Module"], Forward]] = {
    "projected": projected,
    "pooled": pooled,
    "patches": patches,
}
