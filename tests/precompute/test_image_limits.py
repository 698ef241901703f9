"""Hostile images are refused before they take memory or time, and ordinary ones are decoded as before."""

import io
import os
import re
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image

import clipcap
from clipcap.caption.images import is_captioned_image
from clipcap.data.errors import ImageError
from clipcap.data.image_formats import FORMATS
from clipcap.precompute.image_limits import MAX_PIXELS, check_content
from clipcap.precompute.images import decode_image, to_rgb

MIB = 1 << 20


def png(width: int, height: int, bits: int, colour: int, rows: int | None = None, text: bytes = b"") -> bytes:
    """A PNG of zeros with `rows` rows, which may be more or fewer than its header says."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    channels = {0: 1, 2: 3, 6: 4}[colour]
    row = bytes(1 + (width * channels * bits + 7) // 8)
    packer = zlib.compressobj(1)
    packed = b"".join(packer.compress(row) for _ in range(height if rows is None else rows)) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    chunks = chunk(b"IHDR", header) + (text and chunk(b"zTXt", text)) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def tiled_tiff(side: int) -> bytes:
    """A TIFF of one pixel in one tile of `side` x `side` zeros, packed."""
    packer = zlib.compressobj(1)
    packed = b"".join(packer.compress(bytes(side)) for _ in range(side)) + packer.flush()
    tags = {256: 1, 257: 1, 258: 8, 259: 8, 262: 1, 277: 1, 322: side, 323: side, 324: 8 + 2 + 10 * 12 + 4,
            325: len(packed)}  # fmt: skip
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + packed


def jpeg(scans: int, metadata: bytes = b"", after: bytes = b"") -> bytes:
    """A progressive JPEG whose last scan is repeated up to a number of scans."""
    content = io.BytesIO()
    Image.new("L", (40, 30), 90).save(content, "JPEG", progressive=True)
    data = content.getvalue()
    start = data.rindex(b"\xff\xda")
    head, scan = data[:2] + metadata + data[2:start], data[start:-2]
    return head + scan * (scans - head[2 + len(metadata) :].count(b"\xff\xda")) + b"\xff\xd9" + after


def memory_of(data: bytes, tmp_path: Path) -> tuple[str, int]:
    """Decode an image in a process of its own: the size or the reason, and the bytes by which its peak memory grows."""
    (tmp_path / "image").write_bytes(data)
    code = """
import resource, sys
from clipcap.data.errors import ImageError
from clipcap.precompute.images import decode_image
data = open(sys.argv[1], "rb").read()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    outcome = decode_image(data).size
except ImageError as error:
    outcome = error
print(outcome)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
"""
    # exec keeps the peak memory of the process before it, which would be that of these tests, so a shell, which is
    # small, starts the process.
    command = ["/bin/sh", "-c", '"$0" "$@"; exit $?', sys.executable, "-c", code, str(tmp_path / "image")]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    return output[0], int(output[1])


def test_an_image_of_too_many_pixels_is_refused_from_its_header(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = png(20_000, 20_000, 1, 0)  # 50 MB as it is unpacked, 1.6 GB in RGB
    assert len(data) < MIB
    reason, memory = memory_of(data, tmp_path)
    assert "400000000 pixels" in reason
    assert memory < 16 * MIB
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)  # as other code of the process may do
    with pytest.raises(ImageError) as error:
        decode_image(data)
    assert str(error.value) == "20,000 x 20,000 pixels: too large for an image (at most 178,956,970)"


def test_a_tile_larger_than_the_image_is_refused(tmp_path: Path) -> None:
    data = tiled_tiff(16_384)
    reason, memory = memory_of(data, tmp_path)
    assert reason == "16,384 x 16,384 pixels in a tile: too large for an image (at most 178,956,970)"
    assert memory < 16 * MIB
    assert decode_image(tiled_tiff(16)).size == (1, 1)


@pytest.mark.parametrize(("bits", "colour"), [(16, 0), (8, 6)])
def test_large_images_take_the_memory_of_two_images(bits: int, colour: int, tmp_path: Path) -> None:
    size, memory = memory_of(png(5_000, 4_000, bits, colour), tmp_path)
    assert size == "(5000, 4000)"
    assert memory < 2 * 4 * 5_000 * 4_000 + 64 * MIB


def test_content_beyond_what_the_header_says_is_not_unpacked(tmp_path: Path) -> None:
    size, memory = memory_of(png(4_000, 1, 8, 2, rows=20_000), tmp_path)  # 240 MB behind a header of 4,000 pixels
    assert size == "(4000, 1)"
    assert memory < 16 * MIB
    packed_text = b"comment\0\0" + zlib.compress(bytes(200 * MIB), 1)
    reason, memory = memory_of(png(1, 1, 8, 0, text=packed_text), tmp_path)
    assert "too large" in reason
    assert memory < 32 * MIB


def test_a_jpeg_of_many_scans_is_refused() -> None:
    assert decode_image(jpeg(100)).size == (40, 30)
    with pytest.raises(ImageError) as error:
        decode_image(jpeg(20_000))
    assert str(error.value) == "a JPEG of 20,000 scans: too slow to decode; more than 100 are refused"


def test_scans_are_those_of_the_first_image_alone() -> None:
    scans = b"\xff\xda\0\2" * 200
    comment = b"\xff\xfe" + struct.pack(">H", 2 + len(scans)) + scans
    plain = decode_image(jpeg(10))
    check_content(jpeg(100, metadata=comment))
    for data in (jpeg(10, metadata=comment), jpeg(10, after=bytes(2) + scans), jpeg(10, after=jpeg(200))):
        check_content(data)
        assert decode_image(data).tobytes() == plain.tobytes()
    with pytest.raises(ImageError, match="a JPEG of 101 scans"):
        check_content(jpeg(101, metadata=comment, after=scans))
    with pytest.raises(ImageError, match="a JPEG of 101 scans"):
        check_content(jpeg(101, metadata=b"\xff" * MIB + b"\0"))  # which the decoder skips, too


def test_converting_in_bands_equals_converting_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (37, 23, 4), dtype=np.uint8)
    rgba = Image.fromarray(noise)
    palette = rgba.convert("RGB").quantize(16)
    palette.info["transparency"] = 3
    grey = [Image.fromarray(noise.astype(kind)[..., 0] * 100 - 50) for kind in ("int32", "float32")]
    sixteen = Image.fromarray(noise.view(np.uint16)[..., 0].copy())
    others = [rgba.convert(mode) for mode in ("RGB", "L", "LA", "1", "CMYK", "YCbCr", "HSV", "P")]
    images = [rgba, palette, sixteen, *grey, *others]
    whole = [to_rgb(image).tobytes() for image in images]
    monkeypatch.setattr("clipcap.precompute.images._BAND_PIXELS", 100)
    assert [to_rgb(image).tobytes() for image in images] == whole
    assert whole[0] == Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB").tobytes()


def test_an_image_that_a_caller_opened_stays_as_it_is() -> None:
    content = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (6, 3)).save(content, "PNG", exif=exif)
    image = Image.open(content)
    assert to_rgb(image).size == decode_image(content.getvalue()).size == (3, 6)
    assert (image.size, image.getexif()[0x0112]) == ((6, 3), 6)


def test_postscript_never_reaches_ghostscript(monkeypatch: pytest.MonkeyPatch) -> None:
    content = io.BytesIO()
    Image.new("RGB", (4, 4)).save(content, "EPS")
    started: list[object] = []
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *args, **options: started.append(args))
    with pytest.raises(ImageError) as error:
        decode_image(content.getvalue())
    assert str(error.value) == "EPS or PostScript, which is a program; convert it to JPEG or PNG"
    assert started == []


def test_only_listed_formats_are_opened() -> None:
    assert sorted(set(Image.ID) - FORMATS) == [
        "BLP", "BUFR", "EPS", "FITS", "GRIB", "HDF5", "IPTC", "MPEG", "WMF",
    ]  # fmt: skip
    for format in ("JPEG", "PNG", "GIF", "TIFF", "WEBP", "BMP", "PPM", "TGA", "ICO", "PCX"):
        content = io.BytesIO()
        Image.new("RGB", (16, 16), (90, 90, 90)).save(content, format)
        assert decode_image(content.getvalue()).size == (16, 16)


def test_files_are_opened_in_one_place() -> None:
    root = Path(clipcap.__file__).parent.parent
    package = [root / name for name in ("caption", "data", "precompute", "train")]
    files = [
        file for folder in package for file in folder.rglob("*.py") if re.search(r"Image\.open\(", file.read_text())
    ]
    assert sorted(file.relative_to(root).as_posix() for file in files) == [
        "data/demo/models/training.py",  # its own images, from memory
        "precompute/images.py",
    ]


def test_a_fifo_is_no_captioned_image_and_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.jpg")
    assert not is_captioned_image(tmp_path / "x.jpg")


def test_the_limit_lets_large_photographs_pass() -> None:
    assert MAX_PIXELS > 14_204 * 10_652  # 151 megapixels, the largest sensor of a camera
