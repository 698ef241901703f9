"""Lists the formats that are opened, and recognises files by their first bytes.

Recognised are HEIC, which an extra reads, and what cannot be decoded as an image.

Knows nothing of how images are decoded.
"""

import re
from typing import Any

# Formats of Pillow that are opened: raster images that it decodes by itself. Not among them: EPS, which starts
# Ghostscript; WMF, BUFR, GRIB, HDF5 and MPEG, which it only recognises; IPTC and BLP, which hold files of other
# formats; FITS, which older versions unpack without a limit; and formats that other packages or later versions add.
FORMATS = frozenset({
    "AVIF", "BMP", "CUR", "DCX", "DDS", "DIB", "FLI", "FTEX", "GBR", "GIF", "HEIF", "ICNS", "ICO", "IM", "IMT", "JPEG",
    "JPEG2000", "MCIDAS", "MSP", "PCD", "PCX", "PIXAR", "PNG", "PPM", "PSD", "QOI", "SGI", "SPIDER", "SUN", "TGA",
    "TIFF", "WEBP", "XBM", "XPM", "XVTHUMB",
})  # fmt: skip

_TO_CONVERT = "convert it to JPEG or PNG"
_RAW = f"a raw image of a camera; {_TO_CONVERT}"
_VIDEO = "a video, not an image"
_POSTSCRIPT = f"EPS or PostScript, which is a program; {_TO_CONVERT}"
_METAFILE = f"a metafile of Windows, which is a drawing; {_TO_CONVERT}"
_HEADS = {
    b"%PDF-": "a PDF document, not an image",
    b"%!": _POSTSCRIPT,
    b"\xc5\xd0\xd3\xc6": _POSTSCRIPT,  # EPS with a preview
    b"\xd7\xcd\xc6\x9a": _METAFILE,
    b"\x01\0\0\0\x6c\0\0\0": _METAFILE,  # EMF
    b"\x01\0\x09\0\0\x03": _METAFILE,  # WMF without a size
    b"SIMPLE  =": f"FITS; {_TO_CONVERT}",
    b"\x89HDF\r\n": "an HDF5 file, not an image",
    b"BLP": f"a texture of a game (BLP); {_TO_CONVERT}",
    b"PK\x03\x04": "a ZIP archive, not an image",
    b"\x1f\x8b": "a gzip archive, not an image",
    b"version https://git-lfs": "a pointer of Git LFS, not the image itself; run git lfs pull",
    b"\xff\x0a": f"JPEG XL; {_TO_CONVERT}",
    b"\0\0\0\x0cJXL \r\n\x87\n": f"JPEG XL; {_TO_CONVERT}",
    b"\x1aE\xdf\xa3": _VIDEO,  # Matroska and WebM
    b"\0\0\x01\xba": _VIDEO,  # MPEG
    b"\0\0\x01\xb3": _VIDEO,
    b"FLV\x01": _VIDEO,
    b"OggS": _VIDEO,
    b"0&\xb2u\x8ef\xcf\x11": _VIDEO,  # Windows Media
    b"FUJIFILMCCD-RAW": _RAW,
    b"IIRO": _RAW,  # Olympus
    b"IIRS": _RAW,
    b"MMOR": _RAW,
    b"IIU\0": _RAW,  # Panasonic
    b"FOVb": _RAW,  # Sigma
    b"\0MRM": _RAW,  # Minolta
    b"II\x1a\0\0\0HEAPCCDR": _RAW,  # Canon's CRW
}
_JPEG_2000 = (b"\0\0\0\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51")
_AVIF_BRANDS = {b"avif", b"avis"}
_HEIC_BRANDS = {
    b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1",
}  # fmt: skip
_ELEMENT = re.compile(rb"<(!doctype\s+html|html|head|body|title|script|svg)\b")


def register_opener(data: bytes) -> None:
    """Let Pillow open HEIC files, if `data` is one and pillow-heif is installed."""
    pillow_heif = _pillow_heif() if _is_heic(data) else None
    if pillow_heif is not None:
        pillow_heif.register_heif_opener()


def unsupported_format(data: bytes) -> str | None:
    """Say what a file is that could not be decoded, by its first bytes.

    Args:
        data: the content of a file.

    Returns:
        The format and the way out, such as "an HTML page, not an image"; None if the format is unknown, or one that can
        be decoded here, so that the file must be damaged.
    """
    from PIL import features

    if _is_heic(data):
        return None if _pillow_heif() else "HEIC; to read it, install pillow-heif: pip install pillow-heif"
    brands = _brands(data)
    if brands & _AVIF_BRANDS:
        supported = "avif" in features.modules and features.check("avif")
        return None if supported else "AVIF; to read it, install Pillow 11.3 or newer: pip install --upgrade pillow"
    if data.startswith(_JPEG_2000):
        return None if features.check("jpg_2000") else f"JPEG 2000, which this build of Pillow lacks; {_TO_CONVERT}"
    if b"crx " in brands or (data.startswith(b"II*\0") and data[8:10] == b"CR"):  # Canon's CR3 and CR2
        return _RAW
    if brands or data[4:8] in (b"moov", b"mdat", b"wide") or (data.startswith(b"RIFF") and data[8:12] == b"AVI "):
        return _VIDEO
    known = next((name for head, name in _HEADS.items() if data.startswith(head)), None)
    return known or _markup(data)


def _is_heic(data: bytes) -> bool:
    brands = _brands(data)
    return bool(brands & _HEIC_BRANDS) and not brands & _AVIF_BRANDS  # AVIF shares the brands of the container


def _brands(data: bytes) -> set[bytes]:
    """The brands of an ISO media file, such as `heic`, `avif` and `mp42`; empty for other files.

    size (4 bytes) | ftyp | major brand | version | compatible brand | compatible brand | ...
    """
    if data[4:8] != b"ftyp" or len(data) < 12:
        return set()
    end = min(int.from_bytes(data[:4], "big"), 256, len(data))
    return {data[8:12], *(data[start : start + 4] for start in range(16, end, 4))}


def _markup(data: bytes) -> str | None:
    text = data[:4096].removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if text.startswith((b'{"', b"[{")):
        return "a JSON document, not an image"
    element = _ELEMENT.search(text) if text.startswith(b"<") else None
    if element is not None:
        return f"SVG; {_TO_CONVERT}" if element[1] == b"svg" else "an HTML page, not an image"
    return "an XML document, not an image" if text.startswith(b"<?xml") else None


def _pillow_heif() -> Any:
    """The module, or None if it is not installed."""
    try:
        import pillow_heif
    except ImportError:
        return None
    return pillow_heif
