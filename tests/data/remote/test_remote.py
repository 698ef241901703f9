"""Datasets behind URLs: read as in a folder, each image fetched once, failures named, nothing written elsewhere."""

import csv
import errno
import gc
import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow
import pytest
from fsspec.registry import known_implementations
from pyarrow import parquet

from clipcap.data.errors import ImageError, SourceError, UnknownSourceError, UsageError
from clipcap.data.readers import Columns, read_source
from clipcap.data.records import Source
from clipcap.data.remote import is_url, mirror
from remote_hub import Hub
from small_world import make_coco, make_tar


def images(source: Source) -> list[bytes]:
    return [source.images.read(record.path) for record in source.records]


def put(hub: type[Hub], files: dict[str, bytes | str]) -> None:
    """Add files to `hub://set`."""
    for name, content in files.items():
        hub.files[f"set/{name}"] = content.encode() if isinstance(content, str) else content


def test_text_with_a_protocol_is_a_url_and_nothing_else() -> None:
    urls = [
        "hf://datasets/a/b",
        "s3://b",
        "https://h/x.tar",
        "memory://x",
        "zip://::s3://b/x.zip",
        "simplecache::s3://b",
    ]
    assert all(map(is_url, urls))
    assert not any(map(is_url, ["coco", "/a/b", "./s3://b", "C:\\coco", "a::b", "", Path("s3://b")]))


@pytest.mark.parametrize("url", ["hub://set", "hub://set/", "hf://datasets/me/coco"])
def test_a_dataset_behind_a_url_is_read_as_in_a_folder(tmp_path: Path, hub: type[Hub], url: str) -> None:
    folder = make_coco(tmp_path / "coco")
    hub.add(folder, url.partition("://")[2].rstrip("/"))
    local, remote = read_source(folder), read_source(url)
    assert (remote.format, remote.records, remote.missing, remote.unlisted) == ("coco", local.records, [], [])
    assert remote.root == url.rstrip("/")
    assert images(remote) == images(local)
    assert remote.sha256() == local.sha256()


def test_captions_are_fetched_once_and_each_image_when_it_is_read(tmp_path: Path, hub: type[Hub]) -> None:
    hub.add(make_coco(tmp_path / "coco"), "coco")
    source = read_source("hub://coco")
    captions = [f"coco/annotations/captions_{split}2017.json" for split in ("train", "val")]
    assert hub.requests == dict.fromkeys(captions, 1)
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(source.images.read, [record.path for record in source.records]))
    assert hub.requests == dict.fromkeys(hub.files, 1)
    assert {name: hub.sent[name] for name in hub.files} == {name: len(data) for name, data in hub.files.items()}


def test_of_a_tar_only_headers_and_captions_are_kept(tmp_path: Path, hub: type[Hub]) -> None:
    members = {}
    for number in range(6):
        members[f"{number}.jpg"] = bytes([number + 1]) * 3_000_000
        members[f"{number}.txt"] = f"caption {number}".encode()
        members[f"{number}.npy"] = b"x" * 1_000_000
    make_tar(tmp_path / "set/train-000.tar", members)
    hub.add(tmp_path / "set", "set")
    source = read_source("hub://set")
    assert source.records == read_source(tmp_path / "set").records
    assert [record.captions for record in source.records] == [(f"caption {number}",) for number in range(6)]
    (copy,) = (tmp_path / "mirrors").rglob("*.tar")
    assert copy.stat().st_size == len(hub.files["set/train-000.tar"])
    assert copy.stat().st_blocks * 512 < 500_000
    before = hub.sent.total()
    assert images(source) == [members[f"{number}.jpg"] for number in range(6)]
    assert hub.sent.total() - before == 6 * 3_000_000  # no byte more


@pytest.mark.parametrize("damage", ["cut in an image", "cut in a header", "broken header", "compressed", "empty"])
def test_a_damaged_tar_is_answered_as_a_local_one(tmp_path: Path, hub: type[Hub], damage: str) -> None:
    file = make_tar(tmp_path / "set/000.tar", {f"{n}.jpg": b"\1" * 3_000_000 for n in range(3)})
    data = file.read_bytes()
    second = data.index(b"1.jpg")
    file.write_bytes(
        {
            "cut in an image": data[:-2_000_000],
            "cut in a header": data[: second + 100],
            "broken header": data[:second] + b"?" * 512 + data[second + 512 :],
            "compressed": b"\x1f\x8b" + data,
            "empty": b"",
        }[damage]
    )
    hub.add(tmp_path / "set", "set")
    answers = []
    for place in (tmp_path / "set", "hub://set"):
        try:
            source = read_source(place)
            copies = (tmp_path / "mirrors").rglob("*.tar")
            assert all(copy.stat().st_blocks * 512 < 1_200_000 for copy in copies)
            answers.append(f"{source.records} {source.notes} {images(source)}")
        except SourceError as error:
            answers.append(str(error).replace(str(tmp_path / "set"), "hub://set"))
    assert answers[0] == answers[1]


def test_of_parquet_only_columns_that_are_not_binary_are_kept(tmp_path: Path, hub: type[Hub]) -> None:
    contents = [bytes([number]) * 400_000 for number in range(8)]
    column = [{"bytes": content, "path": f"{number}.jpg"} for number, content in enumerate(contents)]
    table = pyarrow.table({"image": column, "caption": [f"caption {number}" for number in range(8)]})
    (tmp_path / "set/data").mkdir(parents=True)
    file = tmp_path / "set/data/train-00000-of-00001.parquet"
    parquet.write_table(table, file, row_group_size=4, compression="none", use_dictionary=False)
    hub.add(tmp_path / "set", "hf-set")
    source = read_source("hf://hf-set")
    assert source.records == read_source(tmp_path / "set").records
    assert source.records[7].captions == ("caption 7",)
    assert hub.sent.total() < 400_000
    (copy,) = (tmp_path / "mirrors").rglob("*.parquet")
    assert copy.stat().st_size == file.stat().st_size
    before = hub.sent.total()
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(source.images.read, [record.path for record in source.records])) == contents
    assert hub.sent.total() - before < sum(map(len, contents)) + 400_000


def test_a_table_in_parquet_is_read_without_its_other_binary_columns(tmp_path: Path, hub: type[Hub]) -> None:
    columns = {"file_name": ["a.jpg"], "text": ["one"], "icon": [b"icon" * 100]}
    (tmp_path / "set").mkdir()
    parquet.write_table(pyarrow.table(columns), tmp_path / "set/metadata.parquet")
    (tmp_path / "set/a.jpg").write_bytes(b"image")
    hub.add(tmp_path / "set", "set")
    source = read_source("hub://set")
    assert source.format == "table"
    assert source.records == read_source(tmp_path / "set").records
    assert images(source) == [b"image"]


def test_an_image_beside_parquet_is_fetched_by_its_path(tmp_path: Path, hub: type[Hub]) -> None:
    kind = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    column = pyarrow.array([{"bytes": None, "path": "a/b.jpg"}, {"bytes": None, "path": "../x.jpg"}], kind)
    (tmp_path / "set/a").mkdir(parents=True)
    parquet.write_table(pyarrow.table({"image": column, "text": ["x", "y"]}), tmp_path / "set/t.parquet")
    (tmp_path / "set/a/b.jpg").write_bytes(b"beside")
    hub.add(tmp_path / "set", "set")
    source = read_source("hub://set")
    first, second = (record.path for record in source.records)
    assert source.images.read(first) == b"beside"
    with pytest.raises(ImageError, match="leads out of"):
        source.images.read(second)


def test_damaged_parquet_is_answered_as_a_local_one(tmp_path: Path, hub: type[Hub]) -> None:
    put(hub, {"x.parquet": b"PAR1" + b"x" * 1000})
    with pytest.raises(SourceError, match=r"^hub://set/x\.parquet cannot be read \(.*\); write or download it again$"):
        read_source("hub://set")


@pytest.mark.parametrize("name", ["captions.csv", "annotations/captions_val2017.json"])
def test_the_url_of_a_file_finds_the_images_beside_it(hub: type[Hub], name: str) -> None:
    listed = {"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": [{"image_id": 1, "caption": "one"}]}
    put(hub, {"captions.csv": "image,caption\na.jpg,one\n", "annotations/captions_val2017.json": json.dumps(listed)})
    put(hub, {"images/a.jpg": b"A", "images/b.jpg": b"B", "other.json": "x" * 99})
    source = read_source(f"hub://set/{name}")
    assert [(record.path, record.captions) for record in source.records] == [("images/a.jpg", ("one",))]
    assert source.root == "hub://set"
    assert source.unlisted == ["images/b.jpg"]
    assert hub.requests == {f"set/{name}": 1}
    assert images(source) == [b"A"]


def test_embeddings_are_fetched_whole_and_their_mirror_is_deleted(tmp_path: Path, hub: type[Hub]) -> None:
    rows = np.eye(3, dtype=np.float32)
    np.savez(tmp_path / "rows.npz", embedding=rows, image=["a", "b", "c"])
    put(hub, {"rows.npz": (tmp_path / "rows.npz").read_bytes(), "other.npz": b"x"})
    source = read_source("hub://set/rows.npz")
    assert source.embedding is not None
    assert (source.embedding == rows).all()
    assert (source.root, source.store) == ("hub://set/rows.npz", None)
    assert [record.id for record in source.records] == ["a", "b", "c"]
    assert set(hub.requests) == {"set/rows.npz"}
    gc.collect()
    assert list((tmp_path / "mirrors").iterdir()) == []


def test_embeddings_beside_images_are_not_fetched(hub: type[Hub]) -> None:
    put(hub, {"a.jpg": b"A", "a.txt": "one", "a.json": "{}", "b.json": "{}", "features.pkl": b"P", "movie.mp4": b"M"})
    assert read_source("hub://set").format == "sidecar"
    assert set(hub.requests) == {"set/a.txt", "set/b.json"}


def test_the_mirror_lives_as_long_as_its_source(tmp_path: Path, hub: type[Hub]) -> None:
    put(hub, {"a.jpg": b"A"})
    source = read_source("hub://set")
    assert len(list((tmp_path / "mirrors").iterdir())) == 1
    assert images(source) == [b"A"]
    del source
    gc.collect()
    assert list((tmp_path / "mirrors").iterdir()) == []


def test_size_and_time_in_the_mirror_change_with_the_file(tmp_path: Path, hub: type[Hub]) -> None:
    def stamps() -> dict[str, tuple[int, int]]:
        source = read_source("hub://set")
        found = {file.name: file.stat() for file in (tmp_path / "mirrors").rglob("*.*") if file.is_file()}
        assert len(source.records) == 2
        return {name: (status.st_size, status.st_mtime_ns) for name, status in found.items()}

    put(hub, {"a.jpg": b"12345", "b.jpg": b"123", "a.txt": "one", "b.txt": "two"})
    before = stamps()
    assert {name: size for name, (size, _) in before.items()} == {"a.jpg": 5, "b.jpg": 3, "a.txt": 3, "b.txt": 3}
    gc.collect()
    hub.etags["set/b.jpg"] = hub.etags["set/b.txt"] = "2"
    after = stamps()
    assert {name for name in before if before[name] != after[name]} == {"b.jpg", "b.txt"}


def test_a_request_that_fails_is_tried_three_times(hub: type[Hub]) -> None:
    put(hub, dict.fromkeys(("a.jpg", "b.jpg", "c.jpg", "d.jpg", "a.txt"), b"content"))
    hub.failures["set/a.txt"] = [TimeoutError("slow")] * 2
    hub.failures["set/a.jpg"] = [ConnectionError("reset"), TimeoutError()]
    hub.failures["set/b.jpg"] = [TimeoutError()] * 9
    hub.failures["set/c.jpg"] = [PermissionError(13, "Forbidden")] * 9
    source = read_source("hub://set")
    assert source.images.read("a.jpg") == b"content"
    del hub.files["set/d.jpg"]
    reasons = {"b.jpg": "TimeoutError", "c.jpg": "[Errno 13] Forbidden", "d.jpg": "there is no such file"}
    for name, reason in reasons.items():
        with pytest.raises(ImageError) as caught:
            source.images.read(name)
        assert str(caught.value) == reason
    assert hub.requests == {"set/a.txt": 3, "set/a.jpg": 3, "set/b.jpg": 3, "set/c.jpg": 1}


def test_captions_that_cannot_be_fetched_are_an_error(hub: type[Hub]) -> None:
    put(hub, {"a.jpg": b"A", "sub/a.csv": "image,caption\na.jpg,one\n"})
    hub.failures["set/sub/a.csv"] = [ConnectionError("reset\nby peer")] * 3
    with pytest.raises(SourceError) as caught:
        read_source("hub://set")
    assert str(caught.value) == ("hub://set/sub/a.csv cannot be read (reset by peer); check the URL and the connection")


def test_a_failure_stops_the_reading_of_a_long_tar(
    hub: type[Hub], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    members = {f"{number}.jpg": b"A" * 1000 for number in range(2000)}
    put(hub, {"000.tar": make_tar(tmp_path / "000.tar", members).read_bytes(), "001.csv": "x"})
    hub.failures["set/001.csv"] = [ConnectionError("reset")] * 3
    monkeypatch.setattr(mirror, "_TAR_BUFFER", 512)
    send = hub.send

    def slow(self: Hub, path: str, start: int, end: int | None) -> bytes:
        time.sleep(0.001)
        return send(self, path, start, end)

    monkeypatch.setattr(hub, "send", slow)
    with pytest.raises(SourceError, match=r"001\.csv cannot be read \(reset\)"):
        read_source("hub://set")
    assert 0 < hub.requests["set/000.tar"] < 2000


def test_a_failure_in_a_tar_or_table_is_no_damage(hub: type[Hub], tmp_path: Path) -> None:
    file = make_tar(tmp_path / "000.tar", {"a.jpg": b"A"})
    parquet.write_table(pyarrow.table({"image": [b"A"]}), tmp_path / "x.parquet")
    for name in ("000.tar", "x.parquet"):
        hub.files.clear()
        put(hub, {name: (tmp_path / name).read_bytes()})
        hub.failures[f"set/{name}"] = [ConnectionError("reset")] * 3
        with pytest.raises(SourceError, match=rf"^hub://set/{name} cannot be read \(reset\); check the URL"):
            read_source("hub://set")
    put(hub, {"000.tar": file.read_bytes()})
    source = read_source("hub://set/000.tar")
    hub.failures["set/000.tar"] = [ConnectionError("reset")] * 3
    with pytest.raises(ImageError, match=r"^reset$"):
        source.images.read("000.tar/a.jpg")
    hub.files["set/000.tar"] = file.read_bytes()[:512]
    with pytest.raises(ImageError, match=r"^000\.tar ends before it does$"):
        source.images.read("000.tar/a.jpg")


def test_a_file_that_arrives_in_part_is_fetched_again(hub: type[Hub], monkeypatch: pytest.MonkeyPatch) -> None:
    put(hub, {"a.jpg": b"A", "a.txt": "a caption"})
    lengths = iter([3, 9])

    def get_file(self: Hub, path: str, target: str) -> None:
        Path(target).write_bytes(self.files[path][: next(lengths)])

    monkeypatch.setattr(hub, "get_file", get_file)
    assert read_source("hub://set").records[0].captions == ("a caption",)


def test_a_server_that_sends_no_parts_is_named(hub: type[Hub], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(hub, {"000.tar": make_tar(tmp_path / "000.tar", {"a.jpg": b"A"}).read_bytes()})
    source = read_source("hub://set")
    monkeypatch.setattr(hub, "cat_file", lambda self, path, **options: self.files[path])
    with pytest.raises(ImageError, match="the server sends whole files only"):
        source.images.read("000.tar/a.jpg")


def test_a_full_disk_is_named(hub: type[Hub], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def get_file(self: Hub, path: str, target: str) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    put(hub, {"a.jpg": b"A", "a.txt": "one"})
    monkeypatch.setattr(hub, "get_file", get_file)
    with pytest.raises(SourceError, match=r"mirrors is full; set TMPDIR to a folder with room"):
        read_source("hub://set")


def test_an_image_that_is_too_large_is_not_fetched(hub: type[Hub], monkeypatch: pytest.MonkeyPatch) -> None:
    put(hub, {"a.jpg": b"12345"})
    monkeypatch.setattr(mirror, "MAX_BYTES", 4)
    with pytest.raises(ImageError, match="5 bytes: too large for an image"):
        read_source("hub://set").images.read("a.jpg")
    assert not hub.requests


def list_all(hub: type[Hub], *others: str) -> None:
    """Let a listing hold all names as they are, and others."""
    hub.find = lambda self, path, **options: {
        name: {"name": name, "type": "file", "size": 1} for name in (*self.files, *others)
    }


def test_hostile_and_hidden_names_stay_out(tmp_path: Path, hub: type[Hub]) -> None:
    names = [
        "../../out.jpg",
        "a//b.jpg",
        "./c.jpg",
        "nul\0.jpg",
        "x" * 300 + ".jpg",
        ".git/d.jpg",
        "sub/.e.jpg",
        "f.jpg",
    ]
    put(hub, dict.fromkeys(names, b"A"))
    list_all(hub, "elsewhere/g.jpg", "settled/h.jpg")
    source = read_source("hub://set")
    assert [record.path for record in source.records] == ["f.jpg"]
    assert source.notes[0] == "files whose name cannot be used here: 5 (such as '../../out.jpg')"
    made = [path.name for path in tmp_path.rglob("*") if path.is_file()]
    assert made == ["f.jpg"]


def test_a_name_that_is_also_a_folder_is_left_out(hub: type[Hub]) -> None:
    put(hub, {"a.jpg": b"A", "a.jpg/b.jpg": b"B", "c.jpg": b"C"})
    list_all(hub)
    source = read_source("hub://set")
    assert [record.path for record in source.records] == ["a.jpg", "c.jpg"]
    assert source.notes[0] == "files whose name cannot be used here: 1 (such as 'a.jpg/b.jpg')"


def test_what_a_url_cannot_be_is_said_in_one_line(hub: type[Hub], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(
        known_implementations, "far", {"class": "far_away_fs.FarFileSystem", "err": "Install far_away_fs"}
    )
    put(hub, {"a.zip": b"Z", ".hidden": b"x"})
    answers = {
        "far://b/x": "far://b/x needs the package far_away_fs, which is missing: pip install far_away_fs",
        "smb://h/x": "smb://h/x needs the package smbprotocol, which is missing: pip install smbprotocol",
        "nothing://x": "nothing://x cannot be opened (Protocol not known: nothing); "
        "give a URL of a protocol of fsspec: hf, s3, gs, https, ...",
        "hub://nowhere/": "hub://nowhere does not exist, or is private; check the URL, or sign in",
        "hub://set/b.csv": "hub://set/b.csv does not exist, or is private; check the URL, or sign in",
    }
    for url, answer in answers.items():
        with pytest.raises(SourceError) as caught:
            read_source(url)
        assert str(caught.value) == answer
    with pytest.raises(UnknownSourceError, match=r"^hub://set is not a dataset of a known format; found 1 \.zip\n"):
        read_source("hub://set")
    put(hub, {"a.csv": "x,y\n1,2\n"})
    with pytest.raises(SourceError, match=r"^hub://set/a\.csv has no column with a known name"):
        read_source("hub://set/a.csv")
    with pytest.raises(UsageError, match="`format` must be one of"):
        read_source("hub://set", "nothing")
    with pytest.raises(SourceError, match=r"^hub://set/a\.csv has no column 'z'; its columns: x, y$"):
        read_source("hub://set/a.csv", "table", Columns(image="z"))


def test_secrets_of_a_url_are_in_no_message(hub: type[Hub], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Guarded(hub):  # type: ignore[misc,valid-type]
        """A store whose URLs have a user, and whose errors repeat them."""

        @classmethod
        def _strip_protocol(cls, path: str) -> str:
            plain: str = super()._strip_protocol(path)
            return plain.rpartition("@")[2].partition("?")[0]

        def info(self, path: str, **options: Any) -> dict[str, Any]:
            if path == "set/a.csv":
                raise ConnectionError(
                    "401 for url https://me:pass%2Fword@cdn/x?Signature=sign4ture&x=1: pass/word sign4ture"
                )
            found: dict[str, Any] = super().info(path, **options)
            return found

    fsspec.register_implementation("hub", Guarded, clobber=True)
    put(hub, {"b.csv": "x,y\n"})
    for url in ("hub://me:pass%2Fword@set/a.csv?sig=sign4ture", "hub://me:pass%2Fword@set/b.csv/?sig=sign4ture"):
        with pytest.raises(SourceError) as caught:
            read_source(url)
        text = str(caught.value)
        assert text.startswith(f"hub://set/{url[25]}.csv ")
        assert not any(secret in text for secret in ("pass%2Fword", "pass/word", "sign4ture"))
        assert caught.value.__cause__ is None or "sign4ture" not in str(caught.value.__cause__)


def test_a_folder_of_a_web_server_is_read(tmp_path: Path, web: str) -> None:
    folder = tmp_path / "web/my set"
    (folder / "train").mkdir(parents=True)
    with (folder / "metadata.csv").open("w", encoding="utf-8") as file:
        csv.writer(file).writerows(
            [("file_name", "text"), ("train/ein Hund é#1.jpg", "A dog."), ("b%20.jpg", "A cat.")]
        )
    (folder / "train/ein Hund é#1.jpg").write_bytes(b"dog")
    (folder / "b%20.jpg").write_bytes(b"cat")
    local = read_source(folder)
    for url in (f"{web}/my%20set", f"{web}/my%20set/", f"{web}/my%20set/metadata.csv"):
        source = read_source(url)
        assert source.records == local.records
        assert source.missing == []
        assert images(source) == [b"dog", b"cat"]
    with pytest.raises(SourceError, match=r"/nothing does not exist"):
        read_source(f"{web}/nothing")


def test_a_tar_of_a_web_server_is_read(tmp_path: Path, web: str) -> None:
    for folder in ("web", "web/private"):
        make_tar(tmp_path / folder / "train 000.tar", {"a.jpg": b"A" * 2000, "a.txt": b"one"})
    for url in (f"{web}/train%20000.tar", f"{web}/private/train%20000.tar?token=s3cret"):
        source = read_source(url)
        assert [(record.path, record.captions) for record in source.records] == [("train 000.tar/a.jpg", ("one",))]
        assert images(source) == [b"A" * 2000]
        assert source.root == url.partition("/train")[0]
    with pytest.raises(SourceError, match="/private does not exist, or is private"):
        read_source(f"{web}/private/")
