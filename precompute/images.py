"""Decodes image files as a viewer shows them."""

import io
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from clipcap.data.errors import ImageError, one_line
from clipcap.data.image_formats import register_opener, unsupported_format
from clipcap.data.image_store import read_image_file

# Pillow warns of large images and odd metadata, which do not keep an image from opening. Filters belong to the process:
# threads that set and reset them around a call would leave them in any state.
warnings.filterwarnings("ignore", module=r"PIL\.")
Image.init()  # threads that load Pillow's formats at the same moment may miss one


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
