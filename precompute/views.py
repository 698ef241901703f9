"""Random crops and flips of an image, which stage 1 encodes besides the image itself, so that training sees more."""

import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode, RandomResizedCrop
from torchvision.transforms import functional as F

from clipcap.data.records import Record

_LOCK = threading.Lock()  # torchvision draws from torch's one generator, which all threads share
SMALLEST = 0.6  # area of a crop at least, as a share of the largest square in the image


def view_counts(records: Sequence[Record], views: int) -> list[int]:
    """Return how many views each record has: `views` for a training image, none for others, which are only measured."""
    return [views if record.split == "train" else 0 for record in records]


def random_view(image: Image.Image, size: tuple[int, int], name: str, number: int) -> torch.Tensor:
    """Crop an image at random, resize the crop to a whole picture, and flip every other one.

    The crops are those of Inception (arXiv:1409.4842), but larger: what a caption names must still be seen. What name
    and number decide is the same in every run.

    Args:
        image: in RGB.
        size: height and width of the result.
        name: of the image's file.
        number: of the view.

    Returns:
        uint8 (H, W, 3).
    """
    square = min(image.size) ** 2 / (image.width * image.height)
    seed = np.random.SeedSequence(list(f"{number} {name}".encode()))
    with _LOCK, torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(seed.generate_state(1)[0]))
        crop = RandomResizedCrop.get_params(image, [SMALLEST * square, square], [3 / 4, 4 / 3])
        flip = bool(torch.rand(1) < 0.5)
    view: Any = F.resized_crop(image, *crop, list(size), InterpolationMode.BICUBIC)
    return torch.from_numpy(np.array(F.hflip(view) if flip else view))
