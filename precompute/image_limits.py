"""Refuses images that would take far more memory or time than an image does, before they are decoded."""

import re

from PIL import Image

from clipcap.data.errors import ImageError

# Pillow's own limit, which other code of the process may have switched off. Photographs of 150 megapixels pass. While
# an image is decoded, JPEG and PNG take 8 bytes a pixel, WebP 16 and JPEG 2000 up to 25: at most pixels, 1.4 to 4.4 GB.
MAX_PIXELS = 178_956_970
# libtiff's limit for the JPEG data in a TIFF. Progressive files have about ten scans. The decoder passes over the whole
# image for each, however few bytes it has: at most pixels, a scan takes 0.3 s.
MAX_SCANS = 100

_START, _END, _SCAN = 0xD8, 0xD9, 0xDA
# The next marker: in compressed data, 0xFF is followed by 0, and markers of restarts (0xD0 to 0xD7) have no content.
_MARKER = re.compile(rb"\xff([\x02-\xcf\xd8-\xfe])")
_HAS_NO_LENGTH = range(0x02, 0xC0)  # reserved; the decoder stops at them, or looks for the next marker


def check_content(data: bytes) -> None:
    """Check what the content of an image file says before it is opened.

    Raises:
        ImageError: it is a JPEG of more than `MAX_SCANS` scans.
    """
    if data.startswith(b"\xff\xd8") and data.count(b"\xff\xda") > MAX_SCANS:  # an upper bound, which is fast to count
        scans = _count_scans(data)
        if scans > MAX_SCANS:
            raise ImageError(f"a JPEG of {scans:,} scans: too slow to decode; more than {MAX_SCANS} are refused")


def check_header(image: Image.Image) -> None:
    """Check what the header of an opened image says before it is decoded.

    Raises:
        ImageError: it has more than `MAX_PIXELS` pixels, or is a TIFF with a tile of as many, which is decoded whole.
    """
    tags = getattr(image, "tag_v2", {})
    tile = tags.get(322), tags.get(323)  # width and height
    for name, (width, height) in {"": image.size, " in a tile": tile}.items():
        if isinstance(width, int) and isinstance(height, int) and width * height > MAX_PIXELS:
            raise ImageError(f"{width:,} x {height:,} pixels{name}: too large for an image (at most {MAX_PIXELS:,})")


def _count_scans(data: bytes) -> int:
    """Count the scans of the first image in a JPEG file, without those of thumbnails in its metadata.

    0xFFD8 | marker, length, content | ... | 0xFFDA, length, content, compressed data | ... | 0xFFD9 | anything
    """
    scans, position = 0, 2
    while found := _MARKER.search(data, position):
        marker, position = found[1][0], found.end()
        if marker in (_START, _END):
            break
        scans += marker == _SCAN
        if marker not in _HAS_NO_LENGTH:
            position += int.from_bytes(data[position : position + 2], "big")
    return scans
