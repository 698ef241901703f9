"""What every frozen image encoder is: its weights' hash, its preprocessing, and the way from pixels to embeddings.

In bf16 and fp16 the weights themselves are cast. Autocast would cast them again for each batch, which makes bf16 slower
than fp32 on a CPU without AMX.

B images, H x W pixels, d numbers in an embedding, t patches.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from clipcap.data.pretrained.device import dtype_of, has_bf16, to_device

if TYPE_CHECKING:
    from clipcap.precompute.loading import Transform

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
        batch_size: images in a forward pass that suit the device.
        device: where it runs.
    """

    name: str
    pretrained: str
    weights_sha256: str
    quick_gelu: bool
    preprocess: dict[str, Any]
    transform: "Transform"
    features: str
    precision: str
    batch_size: int
    device: torch.device
    _forward: Forward

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """The shape of an embedding, (d,) or (t, d), found by encoding one black image."""
        return tuple(self.encode(torch.zeros(1, *self.preprocess["size"], 3, dtype=torch.uint8)).shape[1:])

    @cached_property
    def _mean_and_std(self) -> list[torch.Tensor]:
        """Both on the device: copying them for each batch would wait for the batch before it."""
        return [torch.tensor(self.preprocess[name], device=self.device).view(3, 1, 1) for name in ("mean", "std")]

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        """Encode images.

        Args:
            pixels: uint8 (B, H, W, 3), on any device.

        Returns:
            float32 (B, d), or (B, t, d) for patches, on the CPU, not normalised.
        """
        return self.start(pixels).float().cpu()

    @torch.inference_mode()
    def start(self, pixels: torch.Tensor) -> torch.Tensor:
        """Begin to encode images, without waiting for a GPU.

        Args:
            pixels: uint8 (B, H, W, 3), on any device.

        Returns:
            (B, d), or (B, t, d) for patches, on the encoder's device, in its precision, not normalised.
        """
        mean, std = self._mean_and_std
        batch = to_device(pixels, self.device).permute(0, 3, 1, 2)  # (B, 3, H, W)
        batch = ((batch.float() / 255) - mean) / std
        return self._forward(batch.to(dtype_of(self.precision)))


def freeze(model: nn.Module, device: torch.device, precision: str) -> dict[str, Any]:
    """Move a model to a device, in a precision, never to be trained.

    Its weights are stored with the channels last, which doubles the speed of a convolutional model on a CPU.

    Args:
        model: in float32; it is changed.
        device: where it runs.
        precision: `auto` takes bf16 where the device has it, except for models with batch normalisation, whose
            embeddings it moves too far: pooled ones of EfficientNet-Lite2 on photographs to a cosine of 0.9988.

    Returns:
        `precision`, `batch_size` and `device`, as `Encoder` takes them.
    """
    if precision == "auto":
        normalizes_batches = any(isinstance(module, _BatchNorm) for module in model.modules())
        precision = "bf16" if has_bf16(device) and not normalizes_batches else "fp32"
    model.eval().requires_grad_(False)
    model.to(device, dtype_of(precision)).to(memory_format=torch.channels_last)
    convolutions = sum(isinstance(module, nn.Conv2d) for module in model.modules())  # a ViT has one, for its patches
    # The maps of a few images fill the caches of a CPU.
    batch_size = 128 if device.type != "cpu" else 16 if convolutions < 3 else 4
    return {"precision": precision, "batch_size": batch_size, "device": device}


def preprocessing_steps(whole: Any) -> "Transform":
    """Return a transform without its last two steps, to a normalised tensor, which run on the device."""
    *steps, to_tensor, normalize = whole.transforms
    assert [type(step).__name__ for step in (to_tensor, normalize)] == ["MaybeToTensor", "Normalize"], whole
    return type(whole)(steps)  # type: ignore[no-any-return]
