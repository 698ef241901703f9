"""Tars of webdataset and img2dataset: what a sample is, and that damage to a tar costs no whole image."""

import json
import os
import pickle
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from clipcap.data.errors import ImageError, SourceError
from clipcap.data.readers import read_source
from clipcap.data.readers.images import NO_CAPTIONS
from clipcap.data.records import Source
from small_world import make_tar


def captions(source: Source) -> dict[str, tuple[str, ...]]:
    return {record.path: record.captions for record in source.records}


def images(source: Source) -> dict[str, bytes]:
    return {record.path: source.images.read(record.path) for record in source.records}


def members(count: int, size: int = 700) -> dict[str, bytes]:
    """Samples of an image and a text, all different."""
    files = {}
    for number in range(count):
        files[f"{number:09d}.jpg"] = bytes([number]) * (size + number)
        files[f"{number:09d}.txt"] = f"caption {number}".encode()
    return files


def test_captions_come_from_the_txt_or_else_from_the_json(tmp_path: Path) -> None:
    tar = {
        "a.jpg": b"A",
        "a.txt": b"\xef\xbb\xbfA dog, on grass.\n",
        "a.json": b'{"caption": "not this one"}',
        "b.txt": "um cão\r\n\r\n  \nque corre".encode(),
        "b.PNG": b"B",
        "c.json": b'{"caption": null, "captions": ["one", "two"]}',
        "c.webp": b"C",
        "d.jpg": b"D",
        "d.json": b'{"TEXT": "upper case", "url": "x"}',
        "e.jpg": b"E",
        "e.txt": b"\n",
        "e.json": b'{"text": "from the json"}',
        "f.jpg": b"F",
        "f.json": b'["no object"]',
    }
    make_tar(tmp_path / "x.tar", tar)
    source = read_source(tmp_path / "x.tar")
    assert source == read_source(tmp_path)
    assert (source.format, source.root) == ("webdataset", tmp_path)
    assert captions(source) == {
        "x.tar/a.jpg": ("A dog, on grass.",),
        "x.tar/b.PNG": ("um cão", "que corre"),
        "x.tar/c.webp": ("one", "two"),
        "x.tar/d.jpg": ("upper case",),
        "x.tar/e.jpg": ("from the json",),
        "x.tar/f.jpg": (),
    }
    assert b"".join(images(source).values()) == b"ABCDEF"
    assert source.notes == []


def test_a_key_ends_at_the_first_dot_after_the_last_slash(tmp_path: Path) -> None:
    tar = {
        "./v1.0/a.jpg": b"1",
        "./v1.0/a.seg.png": b"mask",
        "./v1.0/a.txt": b"one",
        "b/a.txt": b"two",
        "b/a.jpg": b"2",
        "b/.hidden.jpg": b"no",
        "photo.v2.jpg": b"no",
    }
    make_tar(tmp_path / "x.tar", tar)
    source = read_source(tmp_path)
    assert captions(source) == {"x.tar/v1.0/a.jpg": ("one",), "x.tar/b/a.jpg": ("two",)}
    assert list(images(source).values()) == [b"1", b"2"]
    assert source.notes == ["1 samples without an image were left out"]


def test_a_folder_of_img2dataset_is_read_tar_by_tar(tmp_path: Path) -> None:
    for number in range(2):
        make_tar(tmp_path / f"{number:05d}.tar", members(2))
        (tmp_path / f"{number:05d}_stats.json").write_text('{"count": 2, "successes": 2}')
        (tmp_path / f"{number:05d}.parquet").write_bytes(b"PAR1")
    (tmp_path / "preview.png").write_bytes(b"")
    source = read_source(tmp_path)
    assert list(captions(source)) == [
        f"{tar}.tar/{image}.jpg" for tar in ("00000", "00001") for image in ("000000000", "000000001")
    ]
    assert [record.id for record in source.records] == list(captions(source))
    assert {record.split for record in source.records} == {None}
    assert source.unlisted == ["preview.png"]


def test_the_split_is_that_of_the_folder_or_of_the_name_of_the_tar(tmp_path: Path) -> None:
    expected = {
        "train/00000.tar": "train",
        "data/validation/00000.tar": "val",
        "val-000.tar": "val",
        "valid_1.tar": "val",
        "data/test2015.tar": "test",
        "Train.tar": "train",
        "trainer.tar": None,
        "my-train.tar": None,
    }
    for name in expected:
        make_tar(tmp_path / name, members(1))
    source = read_source(tmp_path)
    assert {record.path.removesuffix("/000000000.jpg"): record.split for record in source.records} == expected
    make_tar(tmp_path / "one/0.tar", {"test/a.jpg": b"1", "b.jpg": b"2"})
    assert [record.split for record in read_source(tmp_path / "one").records] == ["test", None]


def test_a_tar_without_captions_can_be_captioned(tmp_path: Path) -> None:
    make_tar(tmp_path / "x.tar", {"a.jpg": b"1", "b.jpg": b"2"})
    assert read_source(tmp_path).notes == [NO_CAPTIONS]


@pytest.mark.parametrize("format", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_long_names_and_other_alphabets_are_read(tmp_path: Path, format: int) -> None:
    names = ["f" * 90 + "/" + "n" * 90 + ".jpg", "cão/猫.jpg"]
    make_tar(tmp_path / "x.tar", {name: name.encode() for name in names}, format)
    assert images(read_source(tmp_path)) == {f"x.tar/{name}": name.encode() for name in names}


def test_a_tar_that_is_cut_off_anywhere_keeps_every_whole_image(tmp_path: Path) -> None:
    whole = make_tar(tmp_path / "whole/x.tar", members(4)).read_bytes()
    with tarfile.open(tmp_path / "whole/x.tar") as tar:
        ends = {member.name: member.offset_data + member.size for member in tar if member.name.endswith(".jpg")}
        mark = tar.offset + 512  # the end of the first block of zeros
    for size in range(0, len(whole), 128):
        (tmp_path / "x.tar").write_bytes(whole[:size])
        expected = {f"x.tar/{name}": members(4)[name] for name, end in ends.items() if end <= size}
        if not expected:
            with pytest.raises(SourceError, match=r"holds no images \(x\.tar is damaged after 0 images"):
                read_source(tmp_path / "x.tar")
            continue
        source = read_source(tmp_path / "x.tar")
        assert images(source) == expected, size
        notes = [note for note in source.notes if note != NO_CAPTIONS and "without an image" not in note]
        assert [note.startswith(f"x.tar is damaged after {len(expected)} images") for note in notes] == [True] * (
            size < mark
        )


@pytest.mark.parametrize("broken", ["header", "negative size", "huge size"])
def test_the_images_before_a_broken_header_are_kept(tmp_path: Path, broken: str) -> None:
    file = make_tar(tmp_path / "a.tar", members(4))
    with tarfile.open(file) as tar:
        third = tar.getmember("000000002.jpg").offset
    data = bytearray(file.read_bytes())
    if broken == "header":
        data[third : third + 512] = b"x" * 512
    else:
        size = b"\xff" * 11 + b"\x00" if broken == "negative size" else b"\x80" + b"\x00" * 3 + b"\x7f" * 8
        data[third + 124 : third + 136] = size
        data[third + 148 : third + 156] = b" " * 8
        data[third + 148 : third + 156] = b"%06o\0 " % sum(data[third : third + 512])
    file.write_bytes(data)
    make_tar(tmp_path / "b.tar", members(2))
    source = read_source(tmp_path)
    assert [record.path for record in source.records] == [
        *("a.tar/000000000.jpg", "a.tar/000000001.jpg", "b.tar/000000000.jpg", "b.tar/000000001.jpg"),
    ]
    assert source.notes[0].startswith("a.tar is damaged after 2 images, which were read: ")


def test_links_devices_and_unsafe_names_are_never_followed(tmp_path: Path) -> None:
    (tmp_path / "secret.jpg").write_bytes(b"secret")
    types = {
        "link.jpg": tarfile.SYMTYPE,
        "hard.jpg": tarfile.LNKTYPE,
        "fifo.jpg": tarfile.FIFOTYPE,
        "device.jpg": tarfile.CHRTYPE,
        "folder.jpg": tarfile.DIRTYPE,
        "/secret.jpg": tarfile.REGTYPE,
        "a/../../secret.jpg": tarfile.REGTYPE,
        "good.jpg": tarfile.REGTYPE,
    }
    (tmp_path / "tars").mkdir()
    with tarfile.open(tmp_path / "tars/x.tar", "w") as tar:
        for name, kind in types.items():
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, str(tmp_path / "secret.jpg")
            tar.addfile(member)
    source = read_source(tmp_path / "tars")
    assert images(source) == {"x.tar/good.jpg": b""}
    assert source.notes == [
        "4 members that are links, devices or other special files were left out",
        "2 members whose name is absolute or contains `..` were left out",
        NO_CAPTIONS,
    ]


def test_a_key_that_occurs_again_keeps_its_first_files(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x.tar", "w"):
        pass
    for content in (b"1", b"22"):
        for name in ("a.jpg", "a.txt"):
            (tmp_path / name).write_bytes(content)
            with tarfile.open(tmp_path / "x.tar", "a") as tar:
                tar.add(tmp_path / name, name)
    source = read_source(tmp_path / "x.tar")
    assert images(source) == {"x.tar/a.jpg": b"1"}
    assert captions(source) == {"x.tar/a.jpg": ("1",)}
    assert source.notes == ["2 members whose key has a file of the same kind already were left out"]


def test_captions_that_cannot_be_read_are_counted_and_cost_no_image(tmp_path: Path) -> None:
    tar = {"a.jpg": b"1", "a.txt": b"caf\xe9", "b.jpg": b"2", "b.json": b"{", "c.jpg": b"3", "c.json": b"[" * 100_000}
    make_tar(tmp_path / "x.tar", {**tar, "d.jpg": b"4", "d.txt": b"whole"})
    source = read_source(tmp_path)
    assert list(captions(source).values()) == [(), (), (), ("whole",)]
    assert source.notes == ["3 files of captions that are not UTF-8, not JSON or too large were left out"]


@pytest.mark.parametrize(("name", "mode", "known"), [("x.tar.gz", "w:gz", "gzip"), ("x.tar", "w:xz", "xz")])
def test_compressed_tars_are_refused_by_name(tmp_path: Path, name: str, mode: str, known: str) -> None:
    with tarfile.open(tmp_path / name, mode):  # type: ignore[call-overload]
        pass
    with pytest.raises(SourceError, match=rf"{name} is compressed with {known}, .* decompress it to a \.tar$"):
        read_source(tmp_path)
    (tmp_path / "photo.jpg").write_bytes(b"")
    if name == "x.tar.gz":  # a backup beside images is no dataset
        assert read_source(tmp_path).format == "folder"


def test_a_tar_without_images_is_refused(tmp_path: Path) -> None:
    make_tar(tmp_path / "x.tar", {"a.txt": b"text", "b.wav": b"sound"})
    with pytest.raises(SourceError, match="holds no images \\(2 samples without an image\\)"):
        read_source(tmp_path)


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.tar")
    with pytest.raises(SourceError, match=r"x\.tar cannot be read \(a FIFO, not a file\)"):
        read_source(tmp_path)


def test_an_image_is_read_at_its_position_however_large_the_tar(tmp_path: Path) -> None:
    with (tmp_path / "x.tar").open("wb") as file:  # a hole of 40 GB takes no space
        for name, size in (("a.jpg", 40 << 30), ("b.jpg", 4)):
            member = tarfile.TarInfo(name)
            member.size = size
            file.write(member.tobuf())
            file.seek(file.tell() + size - 4)
            file.write(b"data")
        file.write(bytes(508 + 1024))
    source = read_source(tmp_path)
    assert source.images.read("x.tar/b.jpg") == b"data"
    with pytest.raises(ImageError, match="42,949,672,960 bytes: too large for an image"):
        source.images.read("x.tar/a.jpg")


def test_the_store_is_small_and_serves_several_threads(tmp_path: Path) -> None:
    files = {f"{number:05d}.jpg": f"image {number}".encode() * 50 for number in range(2000)}
    make_tar(tmp_path / "x.tar", files)
    source = read_source(tmp_path)
    data = pickle.dumps(source.images)
    assert len(data) < 40 * len(files)
    store = pickle.loads(data)  # noqa: S301 (made above)
    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(store.read, (f"x.tar/{name}" for name in files))) == list(files.values())


def test_an_image_that_is_not_there_any_more_is_named(tmp_path: Path) -> None:
    file = make_tar(tmp_path / "x.tar", members(2))
    store = read_source(tmp_path).images
    with pytest.raises(ImageError, match="there is no such image in the tars"):
        store.read("x.tar/000000009.jpg")
    file.write_bytes(file.read_bytes()[:600])
    with pytest.raises(ImageError, match=r"x\.tar ends before it does"):
        store.read("x.tar/000000000.jpg")
    file.unlink()
    with pytest.raises(ImageError, match="there is no such file"):
        store.read("x.tar/000000001.jpg")


def test_real_tars_give_the_images_that_tarfile_gives(shared: Path) -> None:
    folder = shared / "data/formats/webdataset-jpg-only"
    expected = {}
    for file in sorted(folder.glob("*.tar")):
        with tarfile.open(file) as tar:
            for member in tar.getmembers():
                content = tar.extractfile(member)
                assert content is not None
                expected[f"{file.name}/{member.name}"] = content.read()
    assert len(expected) == 11
    assert images(read_source(folder)) == expected


def test_txt_and_json_of_img2dataset_say_the_same(tmp_path: Path) -> None:
    metadata = {"url": "http://x.org/a.jpg", "caption": "A dog", "key": "000000000", "status": "success", "exif": "{}"}
    both = {"000000000.jpg": b"1", "000000000.json": json.dumps(metadata).encode(), "000000000.txt": b"A dog"}
    make_tar(tmp_path / "a/0.tar", both)
    make_tar(tmp_path / "b/0.tar", {name: data for name, data in both.items() if not name.endswith(".txt")})
    assert read_source(tmp_path / "a").records == read_source(tmp_path / "b").records


def test_a_tar_beside_other_data_is_a_dataset_only_if_it_is_numbered(tmp_path: Path) -> None:
    for name in ("photos/backup.tar", "shards/00000.tar"):
        (tmp_path / name).parent.mkdir()
        make_tar(tmp_path / name, members(2))
        (tmp_path / name).with_name("preview.png").write_bytes(b"")
    assert read_source(tmp_path / "photos").format == "folder"
    assert read_source(tmp_path / "shards").format == "webdataset"
    (tmp_path / "photos/preview.png").unlink()
    assert read_source(tmp_path / "photos").format == "webdataset"
