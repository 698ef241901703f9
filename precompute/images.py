"""Decodes image files to the uint8 squares that an encoder takes, in worker processes."""

import io
import os
import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError

from clipcap.data.errors import ImageError, one_line
from clipcap.data.image_formats import register_opener, unsupported_format
from clipcap.data.image_store import ImageStore, read_image_file
from clipcap.precompute.settings import MAX_WORKERS
from clipcap.precompute.views import random_view

MAX_ASPECT_RATIO = 200  # long side to short side
Transform = Callable[[Image.Image], Image.Image]
Decoded = tuple[torch.Tensor, list[str | None]]


def open_image(path: Path) -> Image.Image:
    """Open an image file as a viewer shows it: upright, in RGB.

    Raises:
        ImageError: the file does not exist, is not an image, or is cut off.
    """
    return decode_image(read_image_file(path))


def decode_image(data: bytes) -> Image.Image:
    """Decode the content of an image file, as `open_image` does.

    Raises:
        ImageError: it is not an image, is of a format that cannot be read here, or is cut off.
    """
    try:
        register_opener(data)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about large images and odd metadata, which do not keep it from opening
            with Image.open(io.BytesIO(data)) as image:
                return to_rgb(image)
    except UnidentifiedImageError as error:
        raise ImageError(unsupported_format(data) or "not an image of a known format") from error
    except Exception as error:  # the decoders raise OSError, struct.error, TypeError and others
        reason = unsupported_format(data) or one_line(error)
        raise ImageError("the file is cut off" if "truncated" in reason.lower() else reason) from error


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert an image to RGB as a viewer shows it: upright, over white where transparent, scaled to 8 bits.

    Raises:
        ImageError: it holds values that are not finite.
    """
    image = ImageOps.exif_transpose(image)
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        image = _to_grey(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def _to_grey(image: Image.Image) -> Image.Image:
    """Scale 16-bit values, values from 0 to 1, or else the range of the values, to 8 bits. Pillow would clip them."""
    values = np.asarray(image, dtype=np.float64)
    low, high = float(values.min()), float(values.max())
    if not np.isfinite(values).all():
        raise ImageError("it holds values that are not finite")
    if image.mode != "F" and low >= 0 and high < 1 << 16:
        low, high = 0.0, 65535.0
    elif low >= 0 and high <= 1:
        low, high = 0.0, 1.0
    return Image.fromarray(np.round(255 * (values - low) / max(high - low, 1e-12)).astype(np.uint8))


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
    if max(image.size) > MAX_ASPECT_RATIO * min(image.size):
        width, height = image.size
        raise ImageError(f"{width:,} x {height:,} pixels: too narrow to be cropped to a square")
    return torch.from_numpy(np.array(transform(image), dtype=np.uint8))


def choose_workers(wanted: int | None = None) -> int:
    """Return the number of processes that decode images: `wanted`, or one per core, at most `MAX_WORKERS`."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(MAX_WORKERS, cores) if wanted is None else wanted


def decode_images(
    store: ImageStore,
    paths: Sequence[str],
    transform: Transform,
    batches: list[list[int]],
    workers: int,
    views: Sequence[int] = (),
    size: tuple[int, int] = (0, 0),
) -> Iterable[Decoded]:
    """Decode images in worker processes, a few batches ahead.

    Args:
        store: has the image files.
        paths: of the image files in the store.
        transform: the encoder's resize and crop.
        batches: indices into `paths`, for each batch.
        workers: number of processes; 0 decodes in this process.
        views: how many random views of each image follow it; by default none.
        size: height and width of views.

    Returns:
        For each batch of B images, uint8 (m, H, W, 3) with the images that could be read, each with its views after
        it, and a list of B reasons: None, or why the image could not be read.
    """
    return torch.utils.data.DataLoader(
        _Images(store, paths, transform, views or [0] * len(paths), size),
        batch_sampler=batches,
        collate_fn=_collate,
        num_workers=min(workers, len(batches)),
        pin_memory=torch.cuda.is_available(),
    )


class _Images(torch.utils.data.Dataset[tuple[torch.Tensor, str | None]]):
    """An item is an image and its views, uint8 (1 + views, H, W, 3), and None; or nothing, and why it was not read."""

    def __init__(
        self,
        store: ImageStore,
        paths: Sequence[str],
        transform: Transform,
        views: Sequence[int],
        size: tuple[int, int],
    ) -> None:
        self.store, self.paths, self.transform, self.views, self.size = store, paths, transform, views, size

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, str | None]:
        path = self.paths[index]
        try:
            image = decode_image(self.store.read(path))
            pixels = [to_pixels(image, self.transform)]
        except ImageError as error:
            return torch.empty(0, dtype=torch.uint8), str(error)
        name = PurePosixPath(path).name
        pixels += [random_view(image, self.size, name, number) for number in range(self.views[index])]
        return torch.stack(pixels), None


def _collate(items: list[tuple[torch.Tensor, str | None]]) -> Decoded:
    readable = [pixels for pixels, reason in items if reason is None]
    pixels = torch.cat(readable) if readable else torch.empty(0, dtype=torch.uint8)
    return pixels, [reason for _, reason in items]
