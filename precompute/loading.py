"""Loads images for an encoder: read, decoded, resized and cropped to the uint8 squares that it takes."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import NamedTuple

import torch

from clipcap.data.errors import ImageError
from clipcap.data.image_store import ImageStore
from clipcap.precompute.images import decode_image
from clipcap.precompute.transform import Transform
from clipcap.precompute.views import random_view


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
        reasons: for each image None, or why it could not be read.
    """

    pixels: torch.Tensor
    reasons: list[str | None]


@dataclass(frozen=True)
class Loader:
    """Loads images of one store for one encoder. Several threads may use it at once.

    Attributes:
        store: has the image files.
        transform: the encoder's.
        size: height and width of its result.
    """

    store: ImageStore
    transform: Transform
    size: tuple[int, int]

    def __call__(self, items: Sequence[Item]) -> Loaded:
        """Load images."""
        pixels = [torch.empty(0, *self.size, 3, dtype=torch.uint8)]
        reasons: list[str | None] = []
        for path, views in items:
            try:
                image = decode_image(self.store.read(path))
                pixels.append(self.transform(image)[None])
            except ImageError as error:
                reasons.append(str(error))
                continue
            name = PurePosixPath(path).name
            pixels += [random_view(image, self.size, name, number)[None] for number in range(views)]
            reasons.append(None)
        return Loaded(torch.cat(pixels), reasons)
