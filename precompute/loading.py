"""Loads images for an encoder: read, decoded, resized and cropped to the uint8 squares that it takes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image

from clipcap.data.errors import ImageError
from clipcap.data.image_store import ImageStore
from clipcap.precompute.images import decode_image
from clipcap.precompute.stamp import Stamp, read_stamped
from clipcap.precompute.views import random_view

MAX_ASPECT_RATIO = 200  # long side to short side

# Pillow resizes, as it did where the encoders were trained. torchvision's tensors take half of the time, and are within
# two levels of 255 on photographs, but that moves single patches of an EfficientNet to a cosine of 0.9965.
Transform = Callable[[Image.Image], Image.Image]


class Item(NamedTuple):
    """An image to load.

    Attributes:
        path: in the store.
        views: how many random views of it follow it.
    """

    path: str
    views: int = 0


class Loaded(NamedTuple):
    """Images that were loaded together.

    Attributes:
        pixels: uint8 (m, H, W, 3), the images that could be read, each with its views after it.
        outcomes: for each image its stamp, or why it could not be read.
    """

    pixels: torch.Tensor
    outcomes: list[Stamp | str]


@dataclass(frozen=True)
class Loader:
    """Loads images of one store for one encoder. Several threads may use it at once.

    Attributes:
        store: has the image files.
        transform: the encoder's resize and crop of an image in RGB.
        size: height and width of its result.
    """

    store: ImageStore
    transform: Transform
    size: tuple[int, int]

    def __call__(self, items: Sequence[Item]) -> Loaded:
        """Load images."""
        pixels = [torch.empty(0, *self.size, 3, dtype=torch.uint8)]
        outcomes: list[Stamp | str] = []
        for path, views in items:
            try:
                data, stamp = read_stamped(self.store, path)
                image = decode_image(data)
                pixels.append(to_pixels(image, self.transform)[None])
            except ImageError as error:
                outcomes.append(str(error))
                continue
            name = PurePosixPath(path).name
            pixels += [random_view(image, self.size, name, number)[None] for number in range(views)]
            outcomes.append(stamp)
        return Loaded(torch.cat(pixels), outcomes)


def can_be_loaded(store: ImageStore, path: str) -> bool:
    """Return whether an image can be read, decoded and cropped."""
    try:
        check_shape(decode_image(store.read(path)))
    except ImageError:
        return False
    return True


def to_pixels(image: Image.Image, transform: Transform) -> torch.Tensor:
    """Resize and crop an image for the encoder.

    Args:
        image: in RGB.
        transform: the encoder's resize and crop.

    Returns:
        uint8 (H, W, 3). Bytes are a quarter of the size of floats when a batch is copied to the device.

    Raises:
        ImageError: the image is so narrow that resizing its short side would make the long one enormous.
    """
    check_shape(image)
    return torch.from_numpy(np.array(transform(image), dtype=np.uint8))


def check_shape(image: Image.Image) -> None:
    """Raise the ImageError of `to_pixels`."""
    if max(image.size) > MAX_ASPECT_RATIO * min(image.size):
        width, height = image.size
        raise ImageError(f"{width:,} x {height:,} pixels: too narrow to be cropped to a square")
