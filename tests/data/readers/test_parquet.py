"""Parquet files with image bytes: which columns are read, what the splits are, and what is refused by name."""

import os
import pickle
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from clipcap.data.errors import ImageError, SourceError
from clipcap.data.readers import Columns, read_source
from clipcap.data.readers import parquet as parquet_reader
from clipcap.data.readers.images import NO_CAPTIONS
from clipcap.data.records import Source
from small_world import make_tar

IMAGE = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])


def image(content: bytes | None, path: str | None = None) -> dict[str, Any]:
    return {"bytes": content, "path": path}


def write(file: Path, columns: dict[str, Any], rows: int = 2) -> Path:
    """Write a table with `rows` rows in a group; a column of structs is one of images."""
    file.parent.mkdir(parents=True, exist_ok=True)
    arrays = {
        name: pyarrow.array(values, IMAGE if isinstance(values, list) and isinstance(values[0], dict) else None)
        for name, values in columns.items()
    }
    parquet.write_table(pyarrow.table(arrays), file, row_group_size=rows)
    return file


def captions(source: Source) -> dict[str, tuple[str, ...]]:
    return {record.path: record.captions for record in source.records}


def images(source: Source) -> list[bytes]:
    return [source.images.read(record.path) for record in source.records]


def test_images_and_captions_of_datasets_are_read(tmp_path: Path) -> None:
    columns = {
        "image": [image(b"A", "dogs/a.jpg"), image(b"B"), image(b"C", "c.jpg")],
        "text": ["A dog, on grass.", "", None],
        "label": [1, 2, 3],
    }
    file = write(tmp_path / "x.parquet", columns)
    source = read_source(file)
    assert source == read_source(tmp_path)
    assert (source.format, source.root) == ("parquet", tmp_path)
    assert captions(source) == {"x.parquet/0/a.jpg": ("A dog, on grass.",), "x.parquet/1": (), "x.parquet/2/c.jpg": ()}
    assert [record.id for record in source.records] == list(captions(source))
    assert images(source) == [b"A", b"B", b"C"]
    assert source.notes == ["x.parquet: images from column 'image', captions from column 'text'"]


@pytest.mark.parametrize(
    ("columns", "named", "expected"),
    [
        ({"jpg": [b"A"], "txt": ["one"]}, {}, ("one",)),
        ({"IMG": [b"A"], "Caption": [["one", "", "two"]]}, {}, ("one", "two")),
        ({"image": [image(b"A")], "sentences": [["one", None]]}, {}, ("one",)),
        ({"image": [image(b"A")], "caption_0": ["one"], "caption_1": ["two"]}, {}, ("one", "two")),
        ({"scan": [image(b"A")], "text": ["one"], "mask": [b"M"]}, {}, ("one",)),
        ({"image": [b"no"], "x": [b"A"], "text": ["no"], "y": ["one"]}, {"image": "x", "caption": "y"}, ("one",)),
        ({"image": [image(b"A")], "text": [1]}, {}, ()),
        ({"image": [b"A"], "text": pyarrow.array(["one"]).dictionary_encode()}, {}, ("one",)),
    ],
)
def test_columns_are_guessed_or_named(
    tmp_path: Path, columns: dict[str, Any], named: dict[str, str], expected: tuple[str, ...]
) -> None:
    write(tmp_path / "x.parquet", columns)
    source = read_source(tmp_path, columns=Columns(**named))
    assert [record.captions for record in source.records] == [expected]
    assert images(source) == [b"A"]
    assert (NO_CAPTIONS in source.notes) == (not expected)


def test_the_split_is_that_of_the_row_or_of_the_file(tmp_path: Path) -> None:
    names = {
        "data/train-00000-of-00002.parquet": "train",
        "data/train-00001-of-00002.parquet": "train",
        "data/validation-00000-of-00001.parquet": "val",
        "test/0000.parquet": "test",
        "other.parquet": None,
    }
    for name in names:
        write(tmp_path / name, {"image": [b"A"], "text": ["one"]})
    source = read_source(tmp_path)
    assert {record.path.removesuffix("/0"): record.split for record in source.records} == names
    splits = ["train", "val", None, "restval", ""]
    columns = {"image": [b"A"] * 5, "split": splits, "text": ["x"] * 5}
    source = read_source(write(tmp_path / "TEST-0.parquet", columns))
    assert [record.split for record in source.records] == ["train", "val", "test", "test", "test"]
    assert source.notes[1:] == ["1 rows have a `split` of another name; the file's name decided"]


def test_an_image_without_bytes_is_read_by_its_path_below_the_folder(tmp_path: Path) -> None:
    paths = ["a/b.jpg", "gone.jpg", "../secret.jpg", "/etc/passwd", None]
    write(tmp_path / "set/train.parquet", {"image": [image(None, path) for path in paths], "text": ["x"] * 5})
    (tmp_path / "set/a").mkdir()
    (tmp_path / "set/a/b.jpg").write_bytes(b"file")
    (tmp_path / "secret.jpg").write_bytes(b"secret")
    source = read_source(tmp_path / "set")
    first, *others = [record.path for record in source.records]
    assert source.images.read(first) == b"file"
    for path, reason in zip(
        others,
        ["there is no such file", "'../secret.jpg' leads out of", "'/etc/passwd' leads out of", "its row has no image"],
        strict=True,
    ):
        with pytest.raises(ImageError, match=reason):
            source.images.read(path)


def test_every_row_is_read_from_its_group_in_any_order_and_thread(tmp_path: Path) -> None:
    contents = [f"image {number}".encode() for number in range(25)]
    for name in ("a", "b"):
        write(tmp_path / f"{name}.parquet", {"image": [name.encode() + content for content in contents]}, rows=4)
    source = read_source(tmp_path)
    data = pickle.dumps(source.images)
    assert len(data) < 1000
    store = pickle.loads(data)  # noqa: S301 (made above)
    assert store == source.images
    wanted = [(f"{name}.parquet/{row}", name.encode() + contents[row]) for row in range(24, -1, -1) for name in "ab"]
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(store.read, (path for path, _ in wanted))) == [content for _, content in wanted]
    assert len(pickle.dumps(store)) == len(data)  # the group that was read last stays in its thread


def test_a_group_is_read_once_for_all_its_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "x.parquet", {"image": [b"%d" % number for number in range(10)]}, rows=5)
    source = read_source(tmp_path)
    groups: list[int] = []
    read = parquet.ParquetFile.read_row_group

    def counted(self: Any, group: int, **options: Any) -> Any:
        groups.append(group)
        return read(self, group, **options)

    monkeypatch.setattr(parquet.ParquetFile, "read_row_group", counted)
    assert images(source) == [b"%d" % number for number in range(10)]
    assert groups == [0, 1]


def test_threads_that_need_the_same_group_read_it_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "x.parquet", {"image": [b"%d" % number for number in range(8)]}, rows=4)
    store = read_source(tmp_path).images
    groups: list[int] = []
    read = parquet.ParquetFile.read_row_group
    together = threading.Barrier(4, timeout=60)

    def counted(self: Any, group: int, **options: Any) -> Any:
        groups.append(group)
        return read(self, group, **options)

    def read_two_rows(number: int) -> list[bytes]:
        found = []
        for row in (number, 4 + number):
            together.wait()
            found.append(store.read(f"x.parquet/{row}"))
        together.wait()
        return found

    monkeypatch.setattr(parquet.ParquetFile, "read_row_group", counted)
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(read_two_rows, range(4))) == [[b"%d" % row, b"%d" % (4 + row)] for row in range(4)]
    assert groups == [0, 1]


def test_no_image_is_read_while_the_captions_are(tmp_path: Path) -> None:
    file = write(tmp_path / "x.parquet", {"image": [image(b"IMAGE" * 100, "a.jpg")], "text": ["one"]})
    data = file.read_bytes()
    assert b"IMAGEIMAGE" in data
    file.write_bytes(data.replace(b"IMAGE", b"\xff\xff\xff\xff\xff"))
    start = file.read_bytes().index(b"\xff" * 5)
    broken = bytearray(file.read_bytes())
    broken[4:start] = b"\xff" * (start - 4)  # the header of the column of images
    file.write_bytes(broken)
    source = read_source(tmp_path)
    assert captions(source) == {"x.parquet/0/a.jpg": ("one",)}
    with pytest.raises(ImageError, match=r"rows of x\.parquet cannot be read"):
        source.images.read("x.parquet/0/a.jpg")


def test_rows_that_do_not_exist_are_named(tmp_path: Path) -> None:
    file = write(tmp_path / "x.parquet", {"image": [b"A"]})
    store = read_source(tmp_path).images
    for path in ("x.parquet/1", "x.parquet", "a.jpg"):
        with pytest.raises(ImageError, match="there is no such row"):
            store.read(path)
    file.unlink()
    with pytest.raises(ImageError, match=r"x\.parquet cannot be read"):
        store.read("x.parquet/0")


def test_a_folder_named_like_a_file_is_read(tmp_path: Path) -> None:  # as Spark writes
    write(tmp_path / "set.parquet/part-0.parquet", {"image": [image(b"A", "x.parquet"), image(b"B", "1.jpg")]})
    source = read_source(tmp_path / "set.parquet")
    assert images(source) == [b"A", b"B"]
    source = read_source(tmp_path)
    assert list(captions(source)) == ["set.parquet/part-0.parquet/0/x.parquet", "set.parquet/part-0.parquet/1/1.jpg"]
    assert images(source) == [b"A", b"B"]


def test_a_struct_may_have_no_path_or_no_bytes_in_any_row(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"A")
    for fields in ({"bytes": b"A", "path": None}, {"bytes": None, "path": "a.jpg"}, {"path": "a.jpg"}, {"bytes": b"A"}):
        table = pyarrow.table({"image": pyarrow.array([fields])})
        parquet.write_table(table, tmp_path / "x.parquet")
        assert images(read_source(tmp_path / "x.parquet")) == [b"A"], fields


def test_a_struct_with_other_fields_holds_no_images(tmp_path: Path) -> None:
    for number, fields in enumerate(({"bytes": "text"}, {"bytes": b"A", "path": b"B"}, {"bytes": b"A", "size": 1})):
        table = pyarrow.table({"image": pyarrow.array([fields])})
        parquet.write_table(table, tmp_path / f"{number}.parquet")
        with pytest.raises(SourceError, match=r"parquet has no column of images.*: image \(struct<bytes"):
            read_source(tmp_path / f"{number}.parquet", "parquet")


def test_columns_that_do_not_fit_are_named(tmp_path: Path) -> None:
    write(tmp_path / "x.parquet", {"image": [b"A"], "text": ["one"], "label": [1]})
    for named, fact in (
        (Columns(image="photo"), "no column 'photo'; its columns: image (binary), text (string), label (int64)"),
        (Columns(image="text"), "a column 'text', but not of images; its columns: image"),
        (Columns(caption="label"), "a column 'label', but not of texts; its columns: image"),
    ):
        with pytest.raises(SourceError) as caught:
            read_source(tmp_path, columns=named)
        assert str(caught.value).startswith(f"{tmp_path}/x.parquet has {fact}")
    write(tmp_path / "y.parquet", {"image": [b"A"], "caption": ["other"]})
    with pytest.raises(SourceError, match=r"y\.parquet has no column 'text' as .*x\.parquet has it"):
        read_source(tmp_path)
    write(tmp_path / "urls/x.parquet", {"url": ["http://x.org"], "caption": ["one"]})
    with pytest.raises(SourceError, match=r"no column of images.*: url \(string\), caption \(string\)"):
        read_source(tmp_path / "urls", "parquet")


def test_a_table_of_file_names_is_read_as_a_table(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"")
    file = write(tmp_path / "captions.parquet", {"filename": ["a.jpg"], "caption": [["one", "two"]]})
    for path in (file, tmp_path):
        source = read_source(path)
        assert source.format == "table"
        assert captions(source) == {"a.jpg": ("one", "two")}
    write(file, {"image": [image(b"A", "a.jpg")], "filename": ["a.jpg"], "caption": ["one"]})
    assert read_source(tmp_path).format == "parquet"


def test_tables_beside_image_files_are_not_taken_for_the_images(tmp_path: Path) -> None:  # as img2dataset writes
    write(tmp_path / "00000.parquet", {"url": ["http://x.org"], "caption": ["one"], "key": ["000000000"]})
    (tmp_path / "00000").mkdir()
    (tmp_path / "00000/000000000.jpg").write_bytes(b"")
    (tmp_path / "00000/000000000.txt").write_text("one")
    assert read_source(tmp_path).format == "sidecar"


def test_a_pointer_of_git_lfs_is_refused(tmp_path: Path) -> None:
    (tmp_path / "train.parquet").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    with pytest.raises(SourceError, match=r"train\.parquet cannot be read \(.*magic bytes.*\); write or download it"):
        read_source(tmp_path)


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "train.parquet")
    with pytest.raises(SourceError, match=r"train\.parquet cannot be read \(a FIFO, not a file\)"):
        read_source(tmp_path)


def test_without_pyarrow_the_error_says_how_to_install_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "train.parquet", {"image": [b"A"]})
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(SourceError, match=r"train\.parquet is a parquet table; .*: pip install pyarrow$"):
        read_source(tmp_path)


def test_large_groups_of_rows_are_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet_reader, "_LARGE_GROUP", 1500)
    write(tmp_path / "a.parquet", {"image": [b"A" * 2000], "text": ["one"]})
    write(tmp_path / "b.parquet", {"image": [b"A"], "text": ["one"]})
    assert read_source(tmp_path).notes[1].startswith("1 files (such as a.parquet) have groups of rows ")


def test_rows_of_one_image_that_follow_each_other_are_one_record(tmp_path: Path) -> None:
    columns = {
        "image": [image(b"A", "a.jpg"), image(b"A", "a.jpg"), image(b"B", "b.jpg"), image(b"C"), image(b"D")],
        "text": ["one", "two", "three", "four", "five"],
    }
    source = read_source(write(tmp_path / "x.parquet", columns))
    assert captions(source) == {
        "x.parquet/0/a.jpg": ("one", "two"),
        "x.parquet/2/b.jpg": ("three",),
        "x.parquet/3": ("four",),
        "x.parquet/4": ("five",),
    }
    assert images(source) == [b"A", b"B", b"C", b"D"]


def test_a_damaged_table_beside_tars_does_not_keep_them_from_being_read(tmp_path: Path) -> None:
    make_tar(tmp_path / "00000.tar", {"a.jpg": b"A", "a.txt": b"text"})
    (tmp_path / "00000.parquet").write_bytes(b"PAR1 cut off")
    assert read_source(tmp_path).format == "webdataset"
