"""The COCO reader: which annotation files, which pictures, and what is told apart."""

import json
from pathlib import Path

import pytest

from clipcap.data.errors import SourceError, UsageError
from clipcap.data.readers import read_source
from clipcap.data.records import Record


def write(folder: Path, name: str, images: list[tuple[int, str]], captions: list[tuple[int, str]]) -> None:
    (folder / "annotations").mkdir(parents=True, exist_ok=True)
    content = {
        "images": [{"id": identifier, "file_name": file} for identifier, file in images],
        "annotations": [{"image_id": identifier, "caption": text} for identifier, text in captions],
    }
    (folder / "annotations" / name).write_text(json.dumps(content))


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")


def test_records_in_the_order_of_the_files_with_all_their_captions(tmp_path: Path) -> None:
    write(tmp_path, "captions_train2017.json", [(7, "b.jpg"), (3, "a.jpg")], [(3, "one"), (7, "two"), (3, "three")])
    write(tmp_path, "captions_val2017.json", [(9, "c.jpg")], [(9, "four")])
    touch(tmp_path, "train2017/a.jpg", "train2017/b.jpg", "val2017/c.jpg")
    source = read_source(tmp_path)
    assert source.format == "coco"
    assert source.records == [
        Record("7", "train2017/b.jpg", "train", ("two",)),
        Record("3", "train2017/a.jpg", "train", ("one", "three")),
        Record("9", "val2017/c.jpg", "val", ("four",)),
    ]
    assert (source.missing, source.unlisted, source.notes) == ([], [], [])


def test_listed_but_missing_and_there_but_unlisted_are_told_apart(tmp_path: Path) -> None:
    write(tmp_path, "captions_val2017.json", [(1, "a.jpg"), (2, "gone.jpg")], [(1, "x"), (2, "y")])
    touch(tmp_path, "val2017/a.jpg", "val2017/extra.jpg", "val2017/notes.txt")
    source = read_source(tmp_path)
    assert source.missing == ["val2017/gone.jpg"]
    assert source.unlisted == ["val2017/extra.jpg"]
    assert [record.id for record in source.records] == ["1", "2"]


def test_the_names_of_2014(tmp_path: Path) -> None:
    write(tmp_path, "captions_val2014.json", [(5, "COCO_val2014_000000000005.jpg")], [(5, "x")])
    touch(tmp_path, "val2014/COCO_val2014_000000000005.jpg")
    assert read_source(tmp_path).records == [Record("5", "val2014/COCO_val2014_000000000005.jpg", "val", ("x",))]


def test_pictures_may_lie_in_a_folder_images(tmp_path: Path) -> None:
    write(tmp_path, "captions_val2017.json", [(5, "a.jpg")], [(5, "x")])
    touch(tmp_path, "images/val2017/a.jpg")
    assert read_source(tmp_path).records[0].path == "images/val2017/a.jpg"


def test_of_two_years_the_later_is_read_since_the_pictures_are_the_same(tmp_path: Path) -> None:
    write(tmp_path, "captions_train2014.json", [(5, "a.jpg")], [(5, "x")])
    write(tmp_path, "captions_val2017.json", [(5, "b.jpg")], [(5, "x")])
    touch(tmp_path, "train2014/a.jpg", "val2017/b.jpg")
    source = read_source(tmp_path)
    assert [(record.id, record.split) for record in source.records] == [("5", "val")]
    assert source.notes == ["captions of 2014 left alone: they are the same pictures as those of 2017"]


def test_a_split_whose_folder_was_not_unpacked_is_left_alone_and_said(tmp_path: Path) -> None:
    write(tmp_path, "captions_train2017.json", [(1, "a.jpg")], [(1, "x")])
    write(tmp_path, "captions_val2017.json", [(2, "b.jpg")], [(2, "y")])
    touch(tmp_path, "val2017/b.jpg")
    source = read_source(tmp_path)
    assert [record.id for record in source.records] == ["2"]
    assert source.notes == ["captions_train2017.json left alone: there is no folder train2017/"]


def test_other_annotation_files_are_left_alone(tmp_path: Path) -> None:
    write(tmp_path, "captions_val2017.json", [(2, "b.jpg")], [(2, "y")])
    touch(tmp_path, "val2017/b.jpg")
    for name in ("instances_val2017.json", "person_keypoints_val2017.json", "captions_val2017.json.bak"):
        (tmp_path / "annotations" / name).write_text("not even JSON")
    assert len(read_source(tmp_path).records) == 1


@pytest.mark.parametrize("content", ["{", "[]", '{"images": []}', '{"images": [{"id": 1}], "annotations": []}'])
def test_a_broken_annotation_file_is_named(tmp_path: Path, content: str) -> None:
    touch(tmp_path, "val2017/b.jpg")
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations/captions_val2017.json").write_text(content)
    with pytest.raises(SourceError, match=r"captions_val2017\.json is not a COCO caption file"):
        read_source(tmp_path)


def test_one_id_on_two_sides_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "captions_train2017.json", [(1, "a.jpg")], [(1, "x")])
    write(tmp_path, "captions_val2017.json", [(1, "b.jpg")], [(1, "y")])
    touch(tmp_path, "train2017/a.jpg", "val2017/b.jpg")
    with pytest.raises(SourceError, match=r"lists picture 1 again \(first as train2017/a\.jpg\)"):
        read_source(tmp_path)


def test_captions_without_picture_folders(tmp_path: Path) -> None:
    write(tmp_path, "captions_val2017.json", [(1, "a.jpg")], [(1, "x")])
    with pytest.raises(SourceError, match="none of their picture folders"):
        read_source(tmp_path)


def test_an_unknown_source_says_what_was_looked_for_and_found(tmp_path: Path) -> None:
    touch(tmp_path, "holiday.mp4", "more/x.txt")
    with pytest.raises(SourceError, match=r"looked for coco: annotations/captions_.*; found holiday\.mp4, more/"):
        read_source(tmp_path)
    with pytest.raises(SourceError, match="does not exist"):
        read_source(tmp_path / "nowhere")
    with pytest.raises(UsageError, match="--format cocoa is not known; use coco"):
        read_source(tmp_path, "cocoa")


def test_the_real_one(shared: Path) -> None:
    source = read_source(shared / "data/coco")
    assert source.counts() == {"train": 80, "val": 79}
    assert source.captions() == 795
    assert source.missing == []
    assert len(source.unlisted) == 80
    assert all(path.startswith("val2017/") for path in source.unlisted)
