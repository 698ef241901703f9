"""Each real folder is walked once, and an image with several names is one record."""

import json
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from clipcap.data.readers import read_source
from clipcap.data.readers.finder import ImageFinder, walk_images
from clipcap.data.readers.walk import Walk
from clipcap.data.records import Record, Source


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"the same bytes")


def read_table(folder: Path, *rows: str) -> Source:
    (folder / "t.csv").write_text("image,caption,split\n" + "".join(f"{row}\n" for row in rows))
    return read_source(folder)


def test_a_cycle_of_links_is_walked_once(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg", "x/b.jpg", "x/y/c.jpg")
    (tmp_path / "x/y/up").symlink_to("../..")
    (tmp_path / "x/here").symlink_to(".")
    (tmp_path / "itself").symlink_to("itself")
    assert ImageFinder(tmp_path).paths == ["a.jpg", "x/b.jpg", "x/y/c.jpg"]
    assert list(walk_images(tmp_path)) == [tmp_path / "a.jpg", tmp_path / "x/b.jpg", tmp_path / "x/y/c.jpg"]
    assert [record.path for record in read_source(tmp_path).records] == ["a.jpg", "x/b.jpg", "x/y/c.jpg"]


def test_two_links_to_each_other_are_walked_once(tmp_path: Path) -> None:
    touch(tmp_path, "set/a.jpg", "one/b.jpg", "two/c.jpg")
    (tmp_path / "set/one").symlink_to(tmp_path / "one")
    (tmp_path / "one/two").symlink_to(tmp_path / "two")
    (tmp_path / "two/one").symlink_to(tmp_path / "one")
    assert ImageFinder(tmp_path / "set").paths == ["a.jpg", "one/b.jpg", "one/two/c.jpg"]


def test_a_link_to_a_folder_outside_is_followed_once_and_in_its_place_in_the_order(tmp_path: Path) -> None:
    touch(tmp_path, "outside/b.jpg", "outside/deep/c.jpg", "set/a/1.jpg", "set/z/2.jpg")
    (tmp_path / "set/linked").symlink_to(tmp_path / "outside")
    (tmp_path / "set/more").symlink_to(tmp_path / "outside")
    finder = ImageFinder(tmp_path / "set")
    assert finder.paths == ["a/1.jpg", "linked/b.jpg", "linked/deep/c.jpg", "z/2.jpg"]
    assert finder.find("more/deep/c.jpg") == "linked/deep/c.jpg"
    assert finder.find("linked/deep/c.jpg") == "linked/deep/c.jpg"


def test_the_path_of_a_folder_without_links_comes_before_a_link_to_it(tmp_path: Path) -> None:
    touch(tmp_path, "train/1.jpg", "val/1.jpg", "train/sub/2.jpg", "val/sub/2.jpg")
    (tmp_path / "all").symlink_to("train")
    source = read_source(tmp_path)
    assert source.counts() == {"train": 2, "val": 2}
    walk = Walk(tmp_path)
    assert sorted(folder for folder, _ in walk) == ["", "train", "train/sub", "val", "val/sub"]
    assert walk.links == {"all": "train"}
    finder = ImageFinder(tmp_path)
    assert finder.find("all/1.jpg") == "train/1.jpg"  # though val/1.jpg has the same name
    assert finder.find("all/sub/2.jpg") == "train/sub/2.jpg"


def test_the_order_of_images_is_that_of_their_folders(tmp_path: Path) -> None:
    touch(tmp_path, "b/1.jpg", "a.d/1.jpg", "a/z.jpg", "a/b/1.jpg", "z.jpg", "a/c.jpg")
    assert ImageFinder(tmp_path).paths == ["z.jpg", "a/c.jpg", "a/z.jpg", "a/b/1.jpg", "a.d/1.jpg", "b/1.jpg"]


def test_several_spellings_of_a_path_are_one_record(tmp_path: Path) -> None:
    touch(tmp_path, "img/p1.jpg", "img/p2.jpg")
    rows = ["p1.jpg,one,train", "img/p2.jpg,two,train", "./img//p1.jpg,three,train", "img\\p1.jpg,four,train"]
    source = read_table(tmp_path, *rows)
    assert source.records == [
        Record("img/p1.jpg", "img/p1.jpg", "train", ("one", "three", "four")),
        Record("img/p2.jpg", "img/p2.jpg", "train", ("two",)),
    ]
    assert source.notes[1:] == [
        "images listed under several names, whose captions were joined: 1 (such as p1.jpg and ./img//p1.jpg)"
    ]


@pytest.mark.parametrize("link", [os.link, os.symlink])
def test_links_to_one_file_are_one_record_and_equal_files_are_not(tmp_path: Path, link: object) -> None:
    assert callable(link)
    touch(tmp_path, "a.jpg", "equal.jpg", "unlisted.jpg")
    link(tmp_path / "a.jpg", tmp_path / "b.jpg")
    source = read_table(tmp_path, "b.jpg,one,train", "equal.jpg,two,train", "a.jpg,three,train")
    assert source.records == [
        Record("b.jpg", "b.jpg", "train", ("one", "three")),
        Record("equal.jpg", "equal.jpg", "train", ("two",)),
    ]
    assert (source.missing, source.unlisted) == ([], ["unlisted.jpg"])


@pytest.mark.parametrize("link", [os.link, os.symlink])
def test_a_name_that_fits_two_links_to_one_file_fits_one_image(tmp_path: Path, link: object) -> None:
    assert callable(link)
    touch(tmp_path, "x/a.jpg", "y/b.jpg")
    (tmp_path / "z").mkdir()
    link(tmp_path / "x/a.jpg", tmp_path / "z/a.jpg")
    source = read_table(tmp_path, "a.jpg,one,train")
    assert source.records == [Record("x/a.jpg", "x/a.jpg", "train", ("one",))]


def test_an_image_in_two_splits_under_two_names_stays_in_the_first(tmp_path: Path) -> None:
    touch(tmp_path, "p1.jpg", "p2.jpg", "p3.jpg")
    rows = ["p1.jpg,one,val", "./p1.jpg,two,train", "p2.jpg,three,", "./p2.jpg,four,test", "p3.jpg,five,train"]
    source = read_table(tmp_path, *rows)
    assert [(record.path, record.split, record.captions) for record in source.records] == [
        ("p1.jpg", "val", ("one", "two")),
        ("p2.jpg", "test", ("three", "four")),
        ("p3.jpg", "train", ("five",)),
    ]
    assert source.notes[1:] == [
        "images listed under several names, whose captions were joined: 2 (such as p1.jpg and ./p1.jpg)",
        "images listed in two splits under different names, which stay in the first: 1 (such as p1.jpg in val, "
        "./p1.jpg in train)",
    ]


def test_a_folder_of_images_with_a_file_in_two_splits_keeps_the_first(tmp_path: Path) -> None:
    touch(tmp_path, "train/1.jpg", "train/2.jpg", "val/3.jpg")
    (tmp_path / "val/4.jpg").hardlink_to(tmp_path / "train/1.jpg")
    source = read_source(tmp_path)
    assert [(record.path, record.split) for record in source.records] == [
        ("train/1.jpg", "train"),
        ("train/2.jpg", "train"),
        ("val/3.jpg", "val"),
    ]
    assert source.unlisted == []


def test_spellings_of_a_missing_image_are_one_record(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg")
    source = read_table(tmp_path, "a.jpg,one,train", "x/gone.jpg,two,train", "./x/gone.jpg,three,val")
    assert source.records[1:] == [Record("x/gone.jpg", "x/gone.jpg", "train", ("two", "three"))]
    assert source.missing == ["x/gone.jpg"]


def write_coco(folder: Path, split: str, images: dict[int, str]) -> None:
    (folder / "annotations").mkdir(exist_ok=True)
    content = {
        "images": [{"id": number, "file_name": name} for number, name in images.items()],
        "annotations": [{"image_id": number, "caption": f"caption {number}"} for number in images],
    }
    (folder / f"annotations/captions_{split}2017.json").write_text(json.dumps(content))


def test_coco_merges_a_file_that_is_linked_into_both_splits(tmp_path: Path) -> None:
    touch(tmp_path, "train2017/a.jpg", "val2017/b.jpg")
    (tmp_path / "val2017/a.jpg").hardlink_to(tmp_path / "train2017/a.jpg")
    write_coco(tmp_path, "train", {1: "a.jpg"})
    write_coco(tmp_path, "val", {2: "a.jpg", 3: "b.jpg"})
    assert read_source(tmp_path).records == [
        Record("1", "train2017/a.jpg", "train", ("caption 1", "caption 2")),
        Record("3", "val2017/b.jpg", "val", ("caption 3",)),
    ]


def test_coco_reads_two_splits_whose_folders_are_links_to_one(tmp_path: Path) -> None:
    touch(tmp_path, "images/a.jpg", "images/b.jpg")
    for split, images in {"train": {1: "a.jpg"}, "val": {2: "b.jpg"}}.items():
        (tmp_path / f"{split}2017").symlink_to("images")
        write_coco(tmp_path, split, images)
    source = read_source(tmp_path)
    assert [record.path for record in source.records] == ["train2017/a.jpg", "val2017/b.jpg"]
    assert source.missing == []


def test_missing_images_of_coco_with_one_name_keep_their_ids(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg")  # a file of references may name no images at all
    write_coco(tmp_path, "val", {1: "", 2: "", 3: "gone.jpg", 4: "gone.jpg"})
    source = read_source(tmp_path / "annotations/captions_val2017.json")
    assert [record.id for record in source.records] == ["1", "2", "3", "4"]


def test_walking_costs_no_stat_of_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, *(f"x/{number}.jpg" for number in range(20)))
    (tmp_path / "x/link.jpg").hardlink_to(tmp_path / "x/0.jpg")
    stats: list[Path] = []
    stat = Path.stat

    def counting(path: Path, *, follow_symlinks: bool = True) -> os.stat_result:
        stats.append(path)
        return stat(path, follow_symlinks=follow_symlinks)

    monkeypatch.setattr(Path, "stat", counting)
    finder = ImageFinder(tmp_path)
    assert stats == [tmp_path, tmp_path / "x"]
    files = {finder.file(path) for path in finder.paths}
    assert (len(finder.paths), len(files)) == (21, 20)
    assert stats[2:] == [tmp_path / "x/0.jpg", tmp_path / "x/link.jpg"]


@pytest.mark.parametrize("table", ["t.csv", "results.csv", "captions_train.json", "list.json", "t.jsonl"])
def test_reading_a_dataset_costs_at_most_one_stat_of_an_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, table: str
) -> None:
    names = [f"{number}.jpg" for number in range(30)]
    touch(tmp_path, *names)
    for number in range(20, 30):  # names of one file
        (tmp_path / f"link{number}.jpg").hardlink_to(tmp_path / f"{number}.jpg")
    texts = {
        "t.csv": "image,caption\n" + "".join(f"{name},a dog\n" for name in names),
        "results.csv": "image_name| comment_number| comment\n" + "".join(f"{name}| 0| a dog\n" for name in names),
        "captions_train.json": json.dumps(
            {
                "images": [{"id": number, "file_name": name} for number, name in enumerate(names)],
                "annotations": [{"image_id": number, "caption": "a dog"} for number in range(30)],
            }
        ),
        "list.json": json.dumps([{"image": name, "caption": "a dog"} for name in names]),
        "t.jsonl": "".join(json.dumps({"file_name": name, "text": "a dog"}) + "\n" for name in names),
    }
    (tmp_path / table).write_text(texts[table])
    stats: Counter[str] = Counter()

    def counting(stat: Callable[..., os.stat_result]) -> Callable[..., os.stat_result]:
        def count(path: str | Path, **options: bool) -> os.stat_result:
            stats[Path(path).name] += 1
            return stat(path, **options)

        return count

    # `Path.stat` looks `os.stat` up when it is called.
    monkeypatch.setattr(os, "stat", counting(os.stat))
    monkeypatch.setattr(os, "lstat", counting(os.lstat))
    source = read_source(tmp_path / table)
    assert len(source.records) == 30
    assert {stats[name] for name in names[:20]} == {0}
    assert {stats[name] for name in names[20:]} <= {0, 1}


def test_a_link_that_is_named_after_a_split_names_the_split_of_its_folder(tmp_path: Path) -> None:
    touch(tmp_path, "first/a.jpg", "second/b.jpg")
    (tmp_path / "train").symlink_to("first")
    (tmp_path / "val").symlink_to("second")
    assert [(record.path, record.split) for record in read_source(tmp_path).records] == [
        ("first/a.jpg", "train"),
        ("second/b.jpg", "val"),
    ]
