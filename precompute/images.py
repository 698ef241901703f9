"""Decodes image files as a viewer shows them."""

import io
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from clipcap.data.errors import ImageError, one_line
from clipcap.data.image_formats import FORMATS, register_opener, unsupported_format
from clipcap.data.image_store import read_image_file
from clipcap.precompute.image_limits import check_content, check_header

_BAND_PIXELS = 1 << 20  # converted at once

# Pillow warns of large images and odd metadata, which do not keep an image from opening. Filters belong to the process:
# threads that set and reset them around a call would leave them in any state.
warnings.filterwarnings("ignore", module=r"PIL\.")
Image.init()  # threads that load Pillow's formats at the same moment may miss one


def open_image(path: Path) -> Image.Image:
    """Open an image file as a viewer shows it: upright, in RGB.

    Raises:
        ImageError: the file does not exist or is no regular file, or as `decode_image`.
    """
    return decode_image(read_image_file(path))


def decode_image(data: bytes) -> Image.Image:
    """Decode the content of an image file, as `open_image` does. Of several frames or pages, the first is decoded.

    Raises:
        ImageError: it is not an image, is of a format that cannot be read here, is cut off, or would take too much
            memory or time (see `image_limits`).
    """
    with opened(data) as image:
        ImageOps.exif_transpose(image, in_place=True)
        return _to_rgb(image)


@contextmanager
def opened(data: bytes) -> Iterator[Image.Image]:
    """Open the content of an image file: its header is read, its pixels are not decoded yet.

    Every file that comes from outside is opened here, so that the same formats and limits hold everywhere.

    Raises:
        ImageError: as `decode_image`, whether the file is opened or decoded while inside.
    """
    try:
        register_opener(data)
        check_content(data)
        formats = [format for format in Image.ID if format in FORMATS]  # in Pillow's order
        with Image.open(io.BytesIO(data), formats=formats) as image:
            check_header(image)
            yield image
    except ImageError:
        raise
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
    return _to_rgb(ImageOps.exif_transpose(image))


def _to_rgb(image: Image.Image) -> Image.Image:
    """Convert an upright image in bands of rows, because the steps between would take many times its memory."""
    image.load()  # the mode of some formats is known only then
    if image.mode == "RGB" and not image.has_transparency_data:
        return image.convert("RGB")
    scale = _grey_range(image) if image.mode in ("I", "F") or image.mode.startswith("I;16") else None
    result = Image.new("RGB", image.size)
    for top, band in _bands(image):
        grey = band if scale is None else _to_grey(band, *scale)
        result.paste(_over_white(grey).convert("RGB"), (0, top))
    return result


def _over_white(image: Image.Image) -> Image.Image:
    if not image.has_transparency_data:
        return image
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)


def _bands(image: Image.Image) -> Iterator[tuple[int, Image.Image]]:
    """Yield the bands of an image, each with the number of its first row."""
    rows = max(1, _BAND_PIXELS // max(1, image.width))
    for top in range(0, image.height, rows):
        yield top, image.crop((0, top, image.width, min(top + rows, image.height)))


def _grey_range(image: Image.Image) -> tuple[float, float]:
    """The values that become 0 and 255: those of 16 bits, 0 and 1, or else the least and the greatest."""
    low, high = math.inf, -math.inf
    for _, band in _bands(image):
        values = np.asarray(band, dtype=np.float64)
        if not np.isfinite(values).all():
            raise ImageError("it holds values that are not finite")
        low, high = min(low, float(values.min())), max(high, float(values.max()))
    if image.mode != "F" and low >= 0 and high < 1 << 16:
        return 0.0, 65535.0
    return (0.0, 1.0) if low >= 0 and high <= 1 else (low, high)


def _to_grey(image: Image.Image, low: float, high: float) -> Image.Image:
    """Scale values to 8 bits. Pillow would clip them."""
    values = np.asarray(image, dtype=np.float64)
    return Image.fromarray(np.round(255 * (values - low) / max(high - low, 1e-12)).astype(np.uint8))
