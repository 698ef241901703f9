"""References from datasets, caches and JSON objects."""

import json
from pathlib import Path

import pytest

from clipcap.caption.evaluate.references import read_references
from clipcap.data.cache.index import Cache
from clipcap.data.errors import SourceError, UsageError
from small_world import make_tar


def test_a_json_object_of_captions_by_id_is_read(tmp_path: Path) -> None:
    (tmp_path / "r.json").write_text(json.dumps({"1": ["a", "b"], "2": "c", "3": []}))
    found = read_references(tmp_path / "r.json")
    assert [(image.id, image.path, image.split, image.captions) for image in found.images] == [
        ("1", "1", None, ["a", "b"]),
        ("2", "2", None, ["c"]),
    ]
    assert found.without == 1
    assert found.splits() == []


@pytest.mark.parametrize("name", ["captions_val2017.json", "references.json"])
def test_a_caption_file_of_coco_is_read_under_any_name(coco: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes((coco / "annotations/captions_val2017.json").read_bytes())
    found = read_references(tmp_path / name)
    assert [image.id for image in found.images] == ["113", "114", "115", "116", "117"]
    assert found.images[0].path.endswith("000000000113.jpg")
    assert found.images[0].image == tmp_path / "coco/val2017/000000000113.jpg"
    assert [len(image.captions) for image in found.images] == [1, 2, 3, 4, 5]
    assert {image.split for image in found.images} == ({"val"} if name.startswith("captions_") else {None})


def test_a_folder_of_a_dataset_is_read_with_its_splits(coco: Path) -> None:
    found = read_references(coco)
    assert found.splits() == ["train", "val"]
    assert sum(image.split == "val" for image in found.images) == 5


def test_a_cache_is_read_with_the_images_beside_it(small_cache: Path) -> None:
    found = read_references(small_cache)
    tables = list(Cache.open(small_cache).tables())
    assert [image.id for image in found.images] == [name for one in tables for name in one.id]
    assert [text for image in found.images for text in image.captions] == [text for one in tables for text in one.text]
    assert all(isinstance(image.image, Path) and image.image.is_file() for image in found.images)


def test_the_images_of_a_cache_are_found_in_a_folder_that_is_given(small_cache: Path, tmp_path: Path) -> None:
    (tmp_path / "val2017").mkdir()
    (tmp_path / "val2017/000000000113.jpg").write_bytes(b"")
    found = read_references(small_cache, folder=tmp_path)
    assert [image.image for image in found.images if image.image] == [tmp_path / "val2017/000000000113.jpg"]


def test_a_table_and_karpathys_file_are_read(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("image,caption\na.jpg,one\na.jpg,two\nb.jpg,three\n")
    assert [image.captions for image in read_references(tmp_path / "t.csv").images] == [["one", "two"], ["three"]]
    image = {"filename": "a.jpg", "split": "test", "sentences": [{"raw": "one"}]}
    (tmp_path / "any.json").write_text(json.dumps({"images": [image], "dataset": "coco"}))
    (found,) = read_references(tmp_path / "any.json").images
    assert (found.id, found.split, found.captions, found.image) == ("a.jpg", "test", ["one"], None)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("gone.json", None),
        ("broken.json", '{"1": ['),
        ("wrong.json", '{"1": 5}'),
        ("none.json", '{"1": []}'),
        ("other.bin", "?"),
    ],
)
def test_what_holds_no_references_is_an_error(tmp_path: Path, name: str, text: str | None) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(SourceError, match=name.replace(".", r"\.")):
        read_references(tmp_path / name)


def test_an_unknown_format_is_an_error(coco: Path) -> None:
    with pytest.raises(UsageError, match="nothing"):
        read_references(coco, format="nothing")


def test_images_inside_a_tar_are_no_files(tmp_path: Path) -> None:
    make_tar(tmp_path / "x.tar", {"a.jpg": b"1", "a.txt": b"one"})
    (found,) = read_references(tmp_path).images
    assert (found.path, found.captions, found.image) == ("x.tar/a.jpg", ["one"], None)
