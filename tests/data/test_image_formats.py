"""What cannot be decoded is named by its first bytes, and pillow-heif is asked only for HEIC."""

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import features

from clipcap.data.image_formats import register_opener, unsupported_format
from clipcap.data.readers.images import walk_images


def media(major: bytes, *compatible: bytes) -> bytes:
    """The first box of an ISO media file, and some zeros."""
    box = b"ftyp" + major + bytes(4) + b"".join(compatible)
    return (len(box) + 4).to_bytes(4, "big") + box + bytes(64)


HEIC = media(b"heic", b"mif1", b"heic")
HEIF = media(b"mif1", b"mif1", b"heic")
AVIF = media(b"mif1", b"avif", b"mif1", b"miaf")
RAW, VIDEO = "a raw image of a camera; convert it to JPEG or PNG", "a video, not an image"


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b"<!DOCTYPE html>\n<html>", "an HTML page, not an image"),
        (b"\xef\xbb\xbf\r\n <HTML><body><svg>", "an HTML page, not an image"),
        (b'<?xml version="1.0"?><!DOCTYPE html PUBLIC "-//W3C//DTD XHTML 1.0">', "an HTML page, not an image"),
        (b'<svg xmlns="http://www.w3.org/2000/svg">', "SVG; convert it to JPEG or PNG"),
        (b'<?xml version="1.0"?><!-- drawn --><svg><title>', "SVG; convert it to JPEG or PNG"),
        (b'<?xml version="1.0"?><Error><Code>AccessDenied', "an XML document, not an image"),
        (b'{"error": "not found"}', "a JSON document, not an image"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:", "a pointer of Git LFS, not the image itself; "
         "run git lfs pull"),
        (b"%PDF-1.7\n", "a PDF document, not an image"),
        (b"PK\x03\x04" + bytes(30), "a ZIP archive, not an image"),
        (b"\xff\x0a" + bytes(30), "JPEG XL; convert it to JPEG or PNG"),
        (b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(30), "JPEG XL; convert it to JPEG or PNG"),
        (media(b"isom", b"mp42"), VIDEO),
        (media(b"qt  "), VIDEO),
        (b"\0\0\x10\0mdat" + bytes(30), VIDEO),
        (b"RIFF\0\1\0\0AVI LIST", VIDEO),
        (b"\x1aE\xdf\xa3" + bytes(30), VIDEO),
        (b"\0\0\x01\xb3" + bytes(30), VIDEO),
        (b"II*\0\x10\0\0\0CR\x02\0" + bytes(30), RAW),
        (media(b"crx ", b"isom"), RAW),
        (b"FUJIFILMCCD-RAW 0201", RAW),
        (b"IIRO\x08\0\0\0", RAW),
        (b"II*\0\x08\0\0\0" + bytes(30), None),  # a plain TIFF
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", "EPS or PostScript, which is a program; convert it to JPEG or PNG"),
        (b"\xc5\xd0\xd3\xc6" + bytes(30), "EPS or PostScript, which is a program; convert it to JPEG or PNG"),
        (b"\xd7\xcd\xc6\x9a\0\0" + bytes(30), "a metafile of Windows, which is a drawing; convert it to JPEG or PNG"),
        (b"SIMPLE  =  T", "FITS; convert it to JPEG or PNG"),
        (b"\x89HDF\r\n\x1a\n", "an HDF5 file, not an image"),
        (b"RIFF\0\1\0\0WEBPVP8 ", None),
        (b"\xff\xd8\xff\xe0" + bytes(30), None),
        (b"words about <html>", None),
        (b"< 3", None),
        (b"\0\0\0\x18ftyphei", None),
        (b"", None),
    ],
)  # fmt: skip
def test_a_file_is_named_by_its_first_bytes(data: bytes, name: str | None) -> None:
    assert unsupported_format(data) == name


def test_a_format_that_pillow_may_lack_is_named_where_it_does(monkeypatch: pytest.MonkeyPatch) -> None:
    jpeg_2000 = (b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(9), b"\xff\x4f\xff\x51" + bytes(9))
    monkeypatch.setattr(features, "check", lambda name: True)
    monkeypatch.setitem(features.modules, "avif", ("PIL._avif", None))
    assert [unsupported_format(data) for data in (AVIF, *jpeg_2000)] == [None, None, None]
    monkeypatch.setattr(features, "check", lambda name: False)
    assert unsupported_format(AVIF) == "AVIF; to read it, install Pillow 11.3 or newer: pip install --upgrade pillow"
    for data in jpeg_2000:
        assert unsupported_format(data) == "JPEG 2000, which this build of Pillow lacks; convert it to JPEG or PNG"


def test_pillow_heif_is_registered_for_heic_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    registered: list[bool] = []
    module = SimpleNamespace(register_heif_opener=lambda: registered.append(True))
    monkeypatch.setitem(sys.modules, "pillow_heif", module)
    for data in (AVIF, media(b"isom"), b"\xff\xd8\xff\xe0", b""):
        register_opener(data)
    assert registered == []
    for data in (HEIC, HEIF):
        register_opener(data)
        assert unsupported_format(data) is None
    assert registered == [True, True]


def test_heic_and_avif_are_found_in_folders(tmp_path: Path) -> None:
    for name in ("IMG_1.HEIC", "a.avif", "b.heif", "c.pdf", "d.mov"):
        (tmp_path / name).write_bytes(b"")
    assert [path.name for path in walk_images(tmp_path)] == ["IMG_1.HEIC", "a.avif", "b.heif"]


@pytest.mark.parametrize("data", [HEIC, HEIF])
def test_heic_without_pillow_heif_says_what_to_install(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)  # its import fails
    register_opener(data)
    assert unsupported_format(data) == "HEIC; to read it, install pillow-heif: pip install pillow-heif"
