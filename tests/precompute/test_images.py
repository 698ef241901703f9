"""Images are decoded as a viewer shows them, whatever their mode."""

import io
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image, features

from clipcap.data.errors import ImageError
from clipcap.precompute.images import decode_image, open_image


def first_pixel(path: Path) -> tuple[int, ...]:
    image = open_image(path)
    assert image.mode == "RGB"
    pixel = image.getpixel((0, 0))
    assert isinstance(pixel, tuple)
    return pixel


def test_sixteen_bits_and_floats_are_scaled_and_not_clipped(tmp_path: Path) -> None:
    Image.fromarray(np.full((4, 4), 20_000, dtype=np.uint16)).save(tmp_path / "16.png")
    assert first_pixel(tmp_path / "16.png") == (78, 78, 78)
    Image.fromarray(np.full((4, 4), 0.5, dtype=np.float32)).save(tmp_path / "f.tif")
    assert first_pixel(tmp_path / "f.tif") == (128, 128, 128)
    Image.fromarray(np.array([[-3.0, 1.0]], dtype=np.float32)).save(tmp_path / "range.tif")
    assert np.asarray(open_image(tmp_path / "range.tif"))[0, :, 0].tolist() == [0, 255]
    Image.fromarray(np.full((4, 4), 100_000, dtype=np.int32)).save(tmp_path / "i.tif")
    assert first_pixel(tmp_path / "i.tif") == (0, 0, 0)  # scaled by the range of its values, which is 0
    Image.fromarray(np.full((4, 4), np.nan, dtype=np.float32)).save(tmp_path / "nan.tif")
    with pytest.raises(ImageError, match="not finite"):
        open_image(tmp_path / "nan.tif")


def test_transparent_pixels_are_white(tmp_path: Path) -> None:
    Image.new("RGBA", (4, 4), (255, 0, 0, 0)).save(tmp_path / "clear.png")
    assert first_pixel(tmp_path / "clear.png") == (255, 255, 255)
    Image.new("RGBA", (4, 4), (200, 0, 0, 128)).save(tmp_path / "half.png")
    assert first_pixel(tmp_path / "half.png") == (227, 127, 127)
    Image.new("LA", (4, 4), (0, 0)).save(tmp_path / "la.png")
    assert first_pixel(tmp_path / "la.png") == (255, 255, 255)
    palette = Image.new("P", (4, 4), 1)
    palette.putpalette([0, 0, 0, 10, 20, 30])
    palette.save(tmp_path / "p.png", transparency=1)
    assert first_pixel(tmp_path / "p.png") == (255, 255, 255)
    palette.save(tmp_path / "opaque.png")
    assert first_pixel(tmp_path / "opaque.png") == (10, 20, 30)


def test_grey_cmyk_bilevel_and_animated_images_are_decoded(tmp_path: Path) -> None:
    Image.new("L", (4, 4), 90).save(tmp_path / "l.png")
    assert first_pixel(tmp_path / "l.png") == (90, 90, 90)
    Image.new("1", (4, 4), 1).save(tmp_path / "1.png")
    assert first_pixel(tmp_path / "1.png") == (255, 255, 255)
    Image.new("CMYK", (4, 4), (0, 255, 255, 0)).save(tmp_path / "c.jpg", quality=95)
    red, green, blue = first_pixel(tmp_path / "c.jpg")
    assert red > 230
    assert max(green, blue) < 60
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("blue", "red")]
    frames[0].save(tmp_path / "animated.gif", save_all=True, append_images=frames[1:])
    assert first_pixel(tmp_path / "animated.gif") == (0, 0, 255)  # the first frame


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    image = Image.new("RGB", (6, 3), "white")
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(tmp_path / "side.jpg", exif=exif)
    assert open_image(tmp_path / "side.jpg").size == (3, 6)


def test_a_progressive_jpeg_decodes_to_the_same_pixels(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 48, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "plain.jpg", quality=90)
    Image.fromarray(noise).save(tmp_path / "progressive.jpg", quality=90, progressive=True)
    with Image.open(tmp_path / "progressive.jpg") as image:
        assert image.info["progressive"] == 1
    plain, progressive = (open_image(tmp_path / name).tobytes() for name in ("plain.jpg", "progressive.jpg"))
    assert plain == progressive


@pytest.mark.slow
def test_a_large_image_is_decoded_and_an_enormous_one_is_an_error(tmp_path: Path) -> None:
    Image.new("1", (9_600, 9_600), 1).save(tmp_path / "large.png")  # 92 million pixels, about which Pillow warns
    assert open_image(tmp_path / "large.png").size == (9_600, 9_600)
    Image.new("1", (20_000, 10_000)).save(tmp_path / "bomb.png")
    with pytest.raises(ImageError, match="200000000 pixels"):
        open_image(tmp_path / "bomb.png")


@pytest.mark.parametrize(
    "content",
    [b"", b"text"],
)
def test_a_file_that_is_no_image_is_an_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.jpg").write_bytes(content)
    with pytest.raises(ImageError, match="not an image of a known format"):
        open_image(tmp_path / "x.jpg")


def saved(format: str) -> bytes:
    """A grey image of 40 x 30 pixels as Pillow saves it."""
    content = io.BytesIO()
    Image.new("RGB", (40, 30), (90, 90, 90)).save(content, format)
    return content.getvalue()


@pytest.mark.parametrize(("format", "feature"), [("AVIF", "avif"), ("JPEG2000", "jpg_2000"), ("WEBP", "webp")])
def test_newer_formats_are_decoded_where_pillow_has_them(format: str, feature: str) -> None:
    if feature not in features.get_supported():
        pytest.skip(f"this Pillow has no {format}")
    data = saved(format)
    image = decode_image(data)
    assert (image.mode, image.size) == ("RGB", (40, 30))
    assert np.abs(np.asarray(image).astype(int) - 90).max() <= 2
    with pytest.raises(ImageError) as damaged:
        decode_image(data[:-10])
    assert "install" not in str(damaged.value)


def test_heic_is_decoded_where_pillow_heif_is_installed() -> None:
    pillow_heif = pytest.importorskip("pillow_heif")
    content = io.BytesIO()
    pillow_heif.from_pillow(Image.new("RGB", (40, 30), (90, 90, 90))).save(content)
    image = decode_image(content.getvalue())
    assert (image.mode, image.size) == ("RGB", (40, 30))
    assert np.abs(np.asarray(image).astype(int) - 90).max() <= 2


def test_heic_is_given_to_pillow_heif_or_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    header = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100)
    registered: list[bool] = []
    module = SimpleNamespace(register_heif_opener=lambda: registered.append(True))
    monkeypatch.setitem(sys.modules, "pillow_heif", module)
    decode_image(saved("JPEG"))
    assert registered == []
    with pytest.raises(ImageError, match="not an image of a known format"):  # there is nothing after the header
        decode_image(header)
    assert registered == [True]
    monkeypatch.setitem(sys.modules, "pillow_heif", None)  # its import fails
    with pytest.raises(ImageError, match="HEIC; to read it, install pillow-heif"):
        decode_image(header)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (saved("PDF"), "a PDF document, not an image"),
        (b"<!doctype html><title>404 Not Found</title>", "an HTML page, not an image"),
        (b"\0\0\x01\xb3\x14\0\xf0\x13" + bytes(99), "a video, not an image"),  # Pillow opens it, and cannot load it
    ],
)
def test_a_file_of_another_kind_is_named(data: bytes, reason: str) -> None:
    with pytest.raises(ImageError) as error:
        decode_image(data)
    assert str(error.value) == reason


def test_a_missing_or_truncated_image_is_an_error(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    for name in ("x.jpg", "x.png"):
        Image.fromarray(noise).save(tmp_path / name)
        content = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(content[: len(content) // 2])
        with pytest.raises(ImageError):
            open_image(tmp_path / name)
    with pytest.raises(ImageError, match="there is no such file"):
        open_image(tmp_path / "nowhere.jpg")
