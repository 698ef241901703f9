"""The COCO reader chooses the right annotation files and images, and names what it leaves out."""

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


def test_records_have_the_order_of_the_files_and_all_their_captions(tmp_path: Path) -> None:
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


def test_missing_images_and_unlisted_images_are_reported_separately(tmp_path: Path) -> None:
    write(tmp_path, "captions_val2017.json", [(1, "a.jpg"), (2, "gone.jpg")], [(1, "x"), (2, "y")])
    touch(tmp_path, "val2017/a.jpg", "val2017/extra.jpg", "val2017/notes.txt")
    source = read_source(tmp_path)
    assert source.missing == ["val2017/gone.jpg"]
    assert source.unlisted == ["val2017/extra.jpg"]
    assert [record.id for record in source.records] == ["1", "2"]


def test_the_image_names_of_2014_are_found(tmp_path: Path) -> None:
    write(tmp_path, "captions_val2014.json", [(5, "COCO_val2014_000000000005.jpg")], [(5, "x")])
    touch(tmp_path, "val2014/COCO_val2014_000000000005.jpg")
    assert read_source(tmp_path).records == [Record("5", "val2014/COCO_val2014_000000000005.jpg", "val", ("x",))]


def test_the_folders_of_images_may_be_inside_a_folder_images(tmp_path: Path) -> None:
    write(tmp_path, "captions_val2017.json", [(5, "a.jpg")], [(5, "x")])
    touch(tmp_path, "images/val2017/a.jpg")
    assert read_source(tmp_path).records[0].path == "images/val2017/a.jpg"


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["train2014", "val2014", "train2017", "val2017"], "2017"),
        (["train2014", "val2014", "val2017"], "2014"),  # a common layout: 2017 alone could not be trained on
        (["val2014", "val2017"], "2017"),
    ],
)
def test_the_newest_year_that_can_be_trained_on_is_read(tmp_path: Path, names: list[str], expected: str) -> None:
    for number, name in enumerate(names):
        write(tmp_path, f"captions_{name}.json", [(number, "a.jpg")], [(number, "x")])
        touch(tmp_path, f"{name}/a.jpg")
    source = read_source(tmp_path)
    chosen = [name for name in names if name.endswith(expected)]
    assert [record.path for record in source.records] == [f"{name}/a.jpg" for name in chosen]
    ignored = [f"captions_{name}.json" for name in names if name not in chosen]
    assert [note.split()[0] for note in source.notes] == ignored


def test_images_of_any_type_and_in_folders_are_found(tmp_path: Path) -> None:
    write(tmp_path, "captions_val2017.json", [(1, "a.webp"), (2, "b.tif"), (3, "s/c.jpg")], [])
    touch(tmp_path, "val2017/a.webp", "val2017/b.tif", "val2017/s/c.jpg")
    assert read_source(tmp_path).missing == []


def test_captions_of_images_that_are_not_listed_are_left_out_and_counted(tmp_path: Path) -> None:
    write(tmp_path, "captions_val2017.json", [(1, "a.jpg")], [(1, "x"), (2, "y"), (3, "z")])
    touch(tmp_path, "val2017/a.jpg")
    source = read_source(tmp_path)
    assert source.captions() == 1
    (note,) = source.notes
    assert note.startswith("2 captions in captions_val2017.json")


def test_a_byte_order_mark_is_skipped(tmp_path: Path) -> None:
    write(tmp_path, "captions_val2017.json", [(1, "a.jpg")], [(1, "x")])
    touch(tmp_path, "val2017/a.jpg")
    file = tmp_path / "annotations/captions_val2017.json"
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    assert read_source(tmp_path).captions() == 1


def test_a_split_without_its_folder_of_images_is_ignored_with_a_note(tmp_path: Path) -> None:
    write(tmp_path, "captions_train2017.json", [(1, "a.jpg")], [(1, "x")])
    write(tmp_path, "captions_val2017.json", [(2, "b.jpg")], [(2, "y")])
    touch(tmp_path, "val2017/b.jpg")
    source = read_source(tmp_path)
    assert [record.id for record in source.records] == ["2"]
    (note,) = source.notes
    assert note.startswith("captions_train2017.json")
    assert "train2017/" in note


def test_other_annotation_files_are_ignored(tmp_path: Path) -> None:
    write(tmp_path, "captions_val2017.json", [(2, "b.jpg")], [(2, "y")])
    touch(tmp_path, "val2017/b.jpg")
    for name in ("instances_val2017.json", "person_keypoints_val2017.json", "captions_val2017.json.bak"):
        (tmp_path / "annotations" / name).write_text("not even JSON")
    assert len(read_source(tmp_path).records) == 1


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        "[" * 100_000,
        '{"images": []}',
        '{"images": [{"id": 1}], "annotations": []}',
        '{"images": [{"id": 1, "file_name": null}], "annotations": []}',
        '{"images": [{"id": 1, "file_name": "b.jpg"}], "annotations": [{"image_id": 1, "caption": null}]}',
    ],
)
def test_a_broken_annotation_file_is_named(tmp_path: Path, content: str) -> None:
    touch(tmp_path, "val2017/b.jpg")
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations/captions_val2017.json").write_text(content)
    with pytest.raises(SourceError, match=r"captions_val2017\.json"):
        read_source(tmp_path)


def test_an_id_in_two_splits_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "captions_train2017.json", [(1, "a.jpg")], [(1, "x")])
    write(tmp_path, "captions_val2017.json", [(1, "b.jpg")], [(1, "y")])
    touch(tmp_path, "train2017/a.jpg", "val2017/b.jpg")
    with pytest.raises(SourceError, match=r"captions_val2017\.json .*\b1\b.* train2017/a\.jpg"):
        read_source(tmp_path)


def test_broken_json_is_named_with_its_place(tmp_path: Path) -> None:
    touch(tmp_path, "val2017/b.jpg")
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations/captions_val2017.json").write_text('{"images": [],\n "annotations": [1 2]}')
    with pytest.raises(SourceError, match=r"Expecting ',' delimiter: line 2 column 20 \(char 34\)"):
        read_source(tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        '{"annotations": [{"image_id": 1, "caption": "x"}], "images": [{"id": 1, "file_name": "a.jpg"}]}',
        '{"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": [{"image_id": 1, "caption": "old"}], '
        '"annotations": [{"image_id": 1, "caption": "x"}]}',
        '{"images": [], "images": [{"id": 1, "file_name": "a.jpg"}], '
        '"annotations": [{"image_id": 1, "caption": "x"}], "info": {"a": [{}]}}',
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_members_may_have_any_order_and_the_last_of_a_name_counts(tmp_path: Path, text: str, encoding: str) -> None:
    write(tmp_path, "captions_train2017.json", [(7, "b.jpg")], [(7, "first")])
    touch(tmp_path, "train2017/b.jpg", "val2017/a.jpg")
    (tmp_path / "annotations/captions_val2017.json").write_text(text, encoding=encoding)
    assert read_source(tmp_path).records == [
        Record("7", "train2017/b.jpg", "train", ("first",)),
        Record("1", "val2017/a.jpg", "val", ("x",)),
    ]


def test_an_image_that_a_single_file_lists_twice_has_its_captions_under_both_names(tmp_path: Path) -> None:
    write(tmp_path, "captions_val.json", [(1, "a.jpg"), (2, "b.jpg"), (1, "c.jpg")], [(1, "x"), (2, "y"), (1, "z")])
    touch(tmp_path, "a.jpg", "b.jpg", "c.jpg")
    assert read_source(tmp_path / "annotations/captions_val.json").records == [
        Record("1", "a.jpg", "val", ("x", "z")),
        Record("2", "b.jpg", "val", ("y",)),
        Record("1", "c.jpg", "val", ("x", "z")),
    ]


def test_captions_without_any_folder_of_images_are_refused(tmp_path: Path) -> None:
    write(tmp_path, "captions_val2017.json", [(1, "a.jpg")], [(1, "x")])
    with pytest.raises(SourceError, match="train2017/, val2017/"):
        read_source(tmp_path)


def test_a_path_that_does_not_exist_and_an_unknown_format_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="nowhere"):
        read_source(tmp_path / "nowhere")
    with pytest.raises(UsageError, match=r"coco,.*cocoa"):
        read_source(tmp_path, "cocoa")


def test_the_real_coco_sample_is_read(shared: Path) -> None:
    source = read_source(shared / "data/coco")
    assert source.counts() == {"train": 80, "val": 79}
    assert source.captions() == 795
    assert source.missing == []
    assert len(source.unlisted) == 80
    assert all(path.startswith("val2017/") for path in source.unlisted)
