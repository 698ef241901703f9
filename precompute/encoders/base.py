"""What every frozen image encoder is: its weights' hash, its preprocessing, and the way from pixels to embeddings.

B images, H x W pixels, d numbers in an embedding, t patches.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch

from clipcap.data.pretrained.device import autocast

if TYPE_CHECKING:
    from clipcap.precompute.images import Transform

Forward = Callable[[torch.Tensor], torch.Tensor]  # pixels, float (B, 3, H, W), become embeddings


@dataclass(kw_only=True)
class Encoder:
    """A frozen image encoder and its preprocessing.

    Attributes:
        name: open_clip's name of the architecture; or `timm:` and timm's.
        pretrained: the tag of the weights, or the absolute path of their file.
        weights_sha256: the hash of the image tower's weights.
        quick_gelu: whether the tower computes with QuickGELU.
        preprocess: size (height, width), mean, std and interpolation; of open_clip also resize_mode and fill_color, of
            timm crop_mode and crop_pct.
        transform: resizes and crops a PIL image in RGB to `size`.
        features: `projected`, `pooled` or `patches`.
        precision: `fp32`, `bf16` or `fp16`.
    """

    name: str
    pretrained: str
    weights_sha256: str
    quick_gelu: bool
    preprocess: dict[str, Any]
    transform: "Transform"
    features: str
    precision: str
    _forward: Forward
    _device: torch.device

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """The shape of an embedding, (d,) or (t, d), found by encoding one black image."""
        return tuple(self.encode(torch.zeros(1, *self.preprocess["size"], 3, dtype=torch.uint8)).shape[1:])

    @torch.inference_mode()
    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        """Encode images.

        Args:
            pixels: uint8 (B, H, W, 3), on any device.

        Returns:
            float32 (B, d), or (B, t, d) for patches, on the CPU, not normalised.
        """
        mean = torch.tensor(self.preprocess["mean"], device=self._device).view(3, 1, 1)
        std = torch.tensor(self.preprocess["std"], device=self._device).view(3, 1, 1)
        batch = pixels.to(self._device, non_blocking=True).permute(0, 3, 1, 2)  # (B, 3, H, W)
        batch = ((batch.float() / 255) - mean) / std
        with autocast(self._device, self.precision):
            embedding = self._forward(batch)
        return embedding.float().cpu()


def preprocessing_steps(whole: Any) -> "Transform":
    """Return a transform without its last two steps, to a normalised tensor, which run on the device."""
    *steps, to_tensor, normalize = whole.transforms
    assert [type(step).__name__ for step in (to_tensor, normalize)] == ["MaybeToTensor", "Normalize"], whole
    return type(whole)(steps)  # type: ignore[no-any-return]
