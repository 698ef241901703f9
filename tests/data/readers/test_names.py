"""Images are found by names that differ in Unicode form, in case, or by a missing suffix, and this is said."""

import json
import unicodedata
from pathlib import Path

import pytest

from clipcap.data.errors import SourceError
from clipcap.data.readers import read_source
from clipcap.data.readers.finder import ImageFinder
from clipcap.data.readers.names import NameIndex
from clipcap.data.records import Source

NFC, NFD = "caf\xe9", "cafe\u0301"


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")


def read_table(folder: Path, *names: str) -> Source:
    lines = ["image,caption", *(f"{name},c" for name in names)]
    (folder / "t.csv").write_text("\n".join(lines), encoding="utf-8")
    return read_source(folder)


def notes(source: Source) -> list[str]:
    """The notes on names: all but the one on columns."""
    return source.notes[1:]


@pytest.mark.parametrize(
    ("name", "file", "difference"),
    [
        ("img_1.jpg", "img_1.jpg", ""),
        (f"{NFC}.jpg", f"{NFD}.jpg", "differ in Unicode form"),
        (f"{NFD}.jpg", f"{NFC}.jpg", "differ in Unicode form"),
        (f"{NFC}/1.jpg", f"set/{NFD}/1.jpg", "differ in Unicode form"),
        ("img_1.jpg", "IMG_1.JPG", "differ in case"),
        ("Train/1.jpg", "set/train/1.jpg", "differ in case"),
        (f"{NFC.upper()}.jpg", f"{NFD}.jpg", "differ in case"),
        ("STRASSE.jpg", "straße.jpg", "differ in case"),
        ("img_1", "img_1.jpg", "lack the suffix"),
        ("train/v1.2", "set/train/v1.2.png", "lack the suffix"),
        (NFC, f"{NFD}.jpg", "lack the suffix"),
        ("IMG_1", "img_1.jpg", "differ in case and lack the suffix"),
        ("elsewhere/img_1.jpg", "train/IMG_1.JPG", "differ in case"),
    ],
)
def test_a_name_fits_a_file_from_which_it_differs_a_little(name: str, file: str, difference: str) -> None:
    match = NameIndex(["other.jpg", file]).match(name)
    assert (match.path, match.difference) == (file, difference)


@pytest.mark.parametrize("name", ["img_2.jpg", "img_1.png", "img", "", ".", "g_1.jpg", "a/" * 9 + "b.jpg"])
def test_other_names_fit_nothing(name: str) -> None:
    assert NameIndex(["x/img_1.jpg"]).match(name).paths == ()


@pytest.mark.parametrize(
    ("name", "paths", "found"),
    [
        ("A.jpg", ["a.jpg", "x/A.jpg"], ["x/A.jpg"]),  # exact, though not at the top
        ("A.jpg", ["a.jpg", "x/a.jpg"], ["a.jpg"]),  # the whole path before the end of one
        ("a", ["a.jpg", "A.jpg"], ["a.jpg"]),
        (f"{NFC}.jpg", [f"{NFD}.jpg", f"{NFC.upper()}.jpg"], [f"{NFD}.jpg"]),
        ("train/A.jpg", ["train/a.jpg", "val/A.jpg"], ["train/a.jpg"]),  # the right folder before the right case
        ("Ab.jpg", ["AB.jpg", "ab.jpg"], ["AB.jpg", "ab.jpg"]),
        ("a", ["a.jpg", "a.png"], ["a.jpg", "a.png"]),
        ("a.jpg", ["x/a.jpg", "y/a.jpg", "A.jpg"], ["x/a.jpg", "y/a.jpg"]),  # no larger difference decides
    ],
)
def test_the_smallest_difference_wins_and_several_files_are_no_match(
    name: str, paths: list[str], found: list[str]
) -> None:
    match = NameIndex(paths).match(name)
    assert match.paths == found
    assert match.path == (found[0] if len(found) == 1 else None)


def test_only_images_in_the_given_folder_are_found() -> None:
    index = NameIndex(["train/a.jpg", "val/A.jpg", "val/x/A.jpg", "value/a.jpg"])
    assert index.match("a.jpg", "val").path == "val/A.jpg"
    assert index.match("b/a.jpg", "val/x").path == "val/x/A.jpg"
    assert index.match("a.jpg", "test").path is None


def test_each_kind_of_inexact_name_is_noted_once_with_a_count_and_an_example(tmp_path: Path) -> None:
    touch(tmp_path, f"{NFD}.jpg", "IMG_1.JPG", "IMG_2.JPG", "img_3.jpg", "plain.jpg", f"set/{NFD}/x.jpg")
    names = [f"{NFC}.jpg", "img_1.jpg", "plain.jpg", "img_2.jpg", "img_3", f"{NFC}/x.jpg"]
    source = read_table(tmp_path, *names)
    assert source.missing == source.unlisted == []
    found = [f"{NFD}.jpg", "IMG_1.JPG", "plain.jpg", "IMG_2.JPG", "img_3.jpg", f"set/{NFD}/x.jpg"]
    assert [record.path for record in source.records] == found
    assert notes(source) == [
        r"image names that differ in Unicode form: 2 (such as 'caf\xe9.jpg', found as 'cafe\u0301.jpg')",
        "image names that differ in case: 2 (such as img_1.jpg, found as IMG_1.JPG)",
        "image names that lack the suffix: 1 (such as img_3, found as img_3.jpg)",
    ]


def test_a_name_that_fits_two_images_is_missing_and_the_note_names_both(tmp_path: Path) -> None:
    touch(tmp_path, "train/1.jpg", "val/1.jpg", "ab.jpg", "AB.jpg", "2.jpg")
    source = read_table(tmp_path, "1.jpg", "Ab.jpg", "2.jpg", "gone.jpg")
    assert source.missing == ["1.jpg", "Ab.jpg", "gone.jpg"]
    assert notes(source) == [
        "image names that fit several files and count as missing: 2 (such as 1.jpg, which fits train/1.jpg and "
        "val/1.jpg); list these images by their whole paths"
    ]


def test_coco_finds_inexact_names_in_the_folder_of_the_split_only(tmp_path: Path) -> None:
    for split, names in {"train": [f"{NFC}.jpg", "gone.jpg"], "val": ["b.jpg", "a"]}.items():
        images = [{"id": f"{split}{number}", "file_name": name} for number, name in enumerate(names)]
        annotations = [{"image_id": image["id"], "caption": image["file_name"]} for image in images]
        file = tmp_path / f"annotations/captions_{split}2017.json"
        touch(tmp_path, f"annotations/{file.name}")
        file.write_text(json.dumps({"images": images, "annotations": annotations}))
    touch(tmp_path, f"train2017/{NFD}.jpg", "val2017/B.JPG", "val2017/a.jpg", "val2017/gone.jpg", "train2017/a.jpg")
    source = read_source(tmp_path)
    assert [(record.id, record.path) for record in source.records] == [
        ("train0", f"train2017/{NFD}.jpg"),
        ("train1", "train2017/gone.jpg"),
        ("val0", "val2017/B.JPG"),
        ("val1", "val2017/a.jpg"),
    ]
    assert source.missing == ["train2017/gone.jpg"]
    assert source.unlisted == ["train2017/a.jpg", "val2017/gone.jpg"]
    assert [note.split(":")[0] for note in source.notes] == [
        "image names that differ in Unicode form",
        "image names that differ in case",
        "image names that lack the suffix",
    ]


def test_a_listed_file_with_an_unknown_suffix_is_found_by_its_path(tmp_path: Path) -> None:
    touch(tmp_path, "x/a.jfif", "x/b", "x/c.jpg")
    source = read_table(tmp_path, "x/a.jfif", "x/b", "b", "x/c.jpg")
    assert source.missing == ["b"]


def test_a_line_of_a_caption_is_no_row_because_an_image_is_named_like_it(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg", "dog.jpg")
    (tmp_path / "t.csv").write_text('image,caption\na.jpg,"A\ndog\n"\ndog.jpg,b\n')
    assert [record.captions for record in read_source(tmp_path).records] == [("A\ndog\n",), ("b",)]


def test_an_unclosed_quote_is_found_in_a_listing_without_suffixes(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg", "b.jpg")
    (tmp_path / "t.csv").write_text('image,caption\na,"A\nb,c"\n')
    with pytest.raises(SourceError, match="it contains line 3, which is a row of its own"):
        read_source(tmp_path)


def test_the_finder_takes_slashes_of_either_kind_and_paths_below_its_root(tmp_path: Path) -> None:
    touch(tmp_path, "x/1.jpg", "x/2.jpg", "y/2.jpg")
    finder = ImageFinder(tmp_path)
    assert finder.paths == ["x/1.jpg", "x/2.jpg", "y/2.jpg"]
    for name in ("x/2.jpg", "./x/2.jpg", "x//2.jpg", "x\\2.jpg", "y/../x/2.jpg", f"{tmp_path}/x/2.jpg"):
        assert finder.find(name) == "x/2.jpg", name
    assert finder.find("../elsewhere/1.jpg") == "x/1.jpg"
    assert finder.find("2.jpg") is None


def test_the_two_unicode_forms_are_different_names() -> None:
    assert NFC != NFD == unicodedata.normalize("NFD", NFC)


def test_an_image_that_is_listed_under_its_own_name_is_not_taken_for_a_similar_one(tmp_path: Path) -> None:
    touch(tmp_path, "cat/1.jpg", "IMG_2.jpg", "all/3.jpg")
    source = read_table(tmp_path, "cat/1.jpg", "dog/1.jpg", "IMG_2.jpg", "img_2.jpg", "all/3.jpg", "3.jpg")
    assert [(record.path, record.captions) for record in source.records] == [
        ("cat/1.jpg", ("c",)),
        ("dog/1.jpg", ("c",)),
        ("IMG_2.jpg", ("c",)),
        ("img_2.jpg", ("c",)),
        ("all/3.jpg", ("c", "c")),  # of which 3.jpg is the end
    ]
    assert source.missing == ["dog/1.jpg", "img_2.jpg"]
    assert "under its own name: 2 (such as dog/1.jpg, and cat/1.jpg)" in notes(source)[0]
