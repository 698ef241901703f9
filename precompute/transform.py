"""Resizes and crops images for an encoder, as tensors where that is near what Pillow does, which takes twice as long.

torchvision's antialiased resizing of uint8 tensors is within two levels of 255 of Pillow's on photographs. (On tall
pictures of noise, whose overshoot both cut between two passes, one value in sixty is further off, by 22 at most.) It is
used where every step of the encoder has a twin for tensors, and a picture has confirmed the bound on this machine.
"""

from typing import Any

import numpy as np
import torch
from PIL import Image
from torchvision.transforms import CenterCrop, Compose, Resize, v2

from clipcap.data.errors import ImageError

MAX_ASPECT_RATIO = 200  # long side to short side
LEVELS = 2  # of 255, by which pixels may differ from Pillow's


class Transform:
    """The resizing and cropping of an encoder. Several threads may use it at once.

    Args:
        steps: from a PIL image in RGB to another, as open_clip and timm make them.

    Attributes:
        resizing: `tensor` or `pillow`, what resizes.
    """

    def __init__(self, steps: Compose) -> None:
        self._steps = steps
        self._twin = _twin(steps)
        if self._twin is not None:
            noise = np.random.default_rng(0).integers(0, 256, (331, 437, 3), dtype=np.uint8)
            found, exact = self(Image.fromarray(noise)), np.array(steps(Image.fromarray(noise)))
            if int((found.int() - torch.from_numpy(exact).int()).abs().max()) > LEVELS:
                self._twin = None
        self.resizing = "pillow" if self._twin is None else "tensor"

    def __call__(self, image: Image.Image) -> torch.Tensor:
        """Resize and crop an image in RGB.

        Returns:
            uint8 (H, W, 3). Bytes are a quarter of the size of floats when a batch is copied to the device.

        Raises:
            ImageError: the image is so narrow that resizing its short side would make the long one enormous.
        """
        if max(image.size) > MAX_ASPECT_RATIO * min(image.size):
            width, height = image.size
            raise ImageError(f"{width:,} x {height:,} pixels: too narrow to be cropped to a square")
        if self._twin is None:
            return torch.from_numpy(np.array(self._steps(image), dtype=np.uint8))
        # The channels stay last in memory, as Pillow has them; torchvision resizes that as quickly.
        pixels: torch.Tensor = self._twin(torch.from_numpy(np.array(image)).permute(2, 0, 1))
        return pixels.permute(1, 2, 0)


def _twin(steps: Compose) -> v2.Compose | None:
    """Make the steps for uint8 tensors; None if one of them has no twin."""
    twins: list[Any] = []
    for step in steps.transforms:
        if type(step) is Resize:
            twins.append(v2.Resize(step.size, step.interpolation, step.max_size, antialias=True))
        elif type(step) is CenterCrop:
            twins.append(v2.CenterCrop(step.size))
        elif type(step).__name__ != "MaybeConvertMode":  # images are in RGB already
            return None
    return v2.Compose(twins)
