"""Images are resized as tensors, near what Pillow makes of them, where an encoder's steps allow it."""

from pathlib import Path

import numpy as np
import pytest
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Resize

from clipcap.data.errors import ImageError
from clipcap.precompute import transform as transforms
from clipcap.precompute.encoders.base import pixel_transform
from clipcap.precompute.images import open_image
from clipcap.precompute.transform import LEVELS, Transform

STEPS = Compose([Resize(224, InterpolationMode.BICUBIC), CenterCrop(224)])


def pillows(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(STEPS(image)))


def test_photographs_are_resized_within_two_levels_of_pillow(shared: Path) -> None:
    transform = Transform(STEPS)
    assert transform.resizing == "tensor"
    files = sorted((shared / "data/coco/val2017").glob("*.jpg"))[:40]
    files += sorted((shared / "data/flickr8k-full/Images").glob("*.jpg"))[:10]
    worst = 0
    for image in map(open_image, files):
        pixels = transform(image)
        assert (pixels.dtype, pixels.shape) == (torch.uint8, (224, 224, 3))
        worst = max(worst, int((pixels.int() - pillows(image).int()).abs().max()))
    assert 0 < worst <= LEVELS


@pytest.mark.parametrize(("size", "far"), [((224, 224), 0), ((50, 300), 0), ((300, 1000), 0), ((1000, 230), 0.02)])
def test_noise_of_any_size_is_resized_within_two_levels_but_for_few_values(size: tuple[int, int], far: float) -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8))
    difference = (Transform(STEPS)(image).int() - pillows(image).int()).abs()
    assert float((difference > LEVELS).float().mean()) <= far


def test_a_narrow_image_is_refused() -> None:
    with pytest.raises(ImageError, match="500 x 2 pixels"):
        Transform(STEPS)(Image.new("RGB", (500, 2)))


def test_steps_without_a_twin_are_pillows() -> None:
    transform = pixel_transform(image_transform_v2(PreprocessCfg(size=(224, 224), resize_mode="longest"), False))
    assert transform.resizing == "pillow"
    assert transform(Image.new("RGB", (500, 250), "white")).shape == (224, 224, 3)


def test_a_twin_that_is_too_far_from_pillow_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transforms, "LEVELS", 0)
    transform = Transform(STEPS)
    assert transform.resizing == "pillow"
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8))
    assert torch.equal(transform(image), pillows(image))
