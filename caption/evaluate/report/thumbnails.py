"""Thumbnails of image files as data URIs, so that a page holds its images."""

import base64
import io
import logging
from dataclasses import dataclass
from pathlib import Path

from clipcap.data.errors import ImageError
from clipcap.data.image_store import StoredImage, read_image_file

logger = logging.getLogger(__name__)

LONG_SIDE = 320  # pixels
QUALITY = 78  # of JPEG; a photograph of this size takes about 16 KB


@dataclass(frozen=True, kw_only=True)
class Thumbnail:
    """A small image: a `data:` URI of a JPEG, and its size in pixels."""

    uri: str
    width: int
    height: int


def thumbnail(file: Path | StoredImage | None) -> Thumbnail | None:
    """Make the thumbnail of an image, upright and in RGB.

    Returns:
        The thumbnail, or None if the file is not there or is damaged. Small images keep their size.
    """
    if file is None or (isinstance(file, Path) and not file.is_file()):
        return None
    from PIL import Image

    from clipcap.precompute.images import decode_image

    try:
        image = decode_image(read_image_file(file) if isinstance(file, Path) else file.read())
    except ImageError as error:
        logger.warning(f"{file} is left out of the report: {error}")
        return None
    image.thumbnail((LONG_SIDE, LONG_SIDE), Image.Resampling.LANCZOS)
    content = io.BytesIO()
    image.save(content, "JPEG", quality=QUALITY, optimize=True)
    uri = "data:image/jpeg;base64," + base64.b64encode(content.getvalue()).decode()
    return Thumbnail(uri=uri, width=image.width, height=image.height)
