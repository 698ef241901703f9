"""Random crops and flips of an image, which stage 1 encodes besides the image itself, so that training sees more."""

from typing import Any

import numpy as np
import torch
from PIL import Image

from clipcap.data.records import Record

SMALLEST = 0.6  # area of a crop at least, as a share of the largest square in the image


def view_counts(records: list[Record], views: int) -> list[int]:
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
    from torchvision import transforms

    square = min(image.size) ** 2 / (image.width * image.height)
    seed = np.random.SeedSequence(list(f"{number} {name}".encode()))
    steps: Any = transforms.Compose(
        [
            transforms.RandomResizedCrop(
                size, scale=(SMALLEST * square, square), interpolation=transforms.InterpolationMode.BICUBIC
            ),
            transforms.RandomHorizontalFlip(),
        ]
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(seed.generate_state(1)[0]))
        return torch.from_numpy(np.array(steps(image), dtype=np.uint8))
