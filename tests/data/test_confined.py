"""A dataset names files below its folder, and others only where the user allows it."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from clipcap.caption.evaluate.references import read_references
from clipcap.data.confined import ConfinedStore, leads_outside, names_outside
from clipcap.data.errors import ImageError, SourceError, UsageError
from clipcap.data.image_store import FolderStore
from clipcap.data.readers import read_source
from clipcap.data.records import Source
from clipcap.precompute.dataset import check_missing, understand
from clipcap.precompute.settings import PrecomputeSettings


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A dataset with a link to a folder outside, beside which there is a secret, and with a link to a file outside."""
    for name in ("set/a.jpg", "set/sub/b.jpg", "secret.jpg", "disk/images/c.jpg", "disk/secret.jpg", "file.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    (tmp_path / "set/link").symlink_to(tmp_path / "disk/images")
    (tmp_path / "set/d.jpg").symlink_to(tmp_path / "file.jpg")
    return tmp_path / "set"


INSIDE = ["a.jpg", "sub/b.jpg", "./a.jpg", "sub/../a.jpg", "../set/a.jpg", "link/c.jpg", "d.jpg", "gone.jpg", "a..jpg"]
OUTSIDE = [
    "../secret.jpg",
    "../gone.jpg",
    "sub/../../secret.jpg",
    "link/../secret.jpg",
    "..",
    "../set2/a.jpg",
    "../nul\0.jpg",
]


@pytest.mark.parametrize("name", [*INSIDE, "nul\0.jpg", "sub/../nul\0.jpg", "\udcff/../a.jpg"])
def test_names_below_the_folder_or_through_its_links_do_not_lead_outside(root: Path, name: str) -> None:
    assert not leads_outside(root, name)


@pytest.mark.parametrize("name", ["a.jpg", "sub/b.jpg", "sub/../a.jpg", "../set/a.jpg", "gone.jpg"])
def test_absolute_names_below_the_folder_do_not_lead_outside(root: Path, name: str) -> None:
    assert not leads_outside(root, str(root / name))


@pytest.mark.parametrize("name", OUTSIDE)
def test_names_that_end_outside_lead_outside(root: Path, name: str) -> None:
    assert leads_outside(root, name)
    assert leads_outside(root, str(root / name))


def test_an_absolute_name_leads_to_where_it_ends_through_all_links(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert leads_outside(root, "/etc/passwd")
    assert leads_outside(root, str(root / "d.jpg"))  # a link to another folder, named by an absolute path
    (root.parent / "name").symlink_to(root)  # another path of the same folder
    assert not leads_outside(root.parent / "name", str(root / "a.jpg"))
    assert not leads_outside(root, str(root.parent / "name/a.jpg"))
    monkeypatch.chdir(root)
    assert not leads_outside(Path(), str(root / "a.jpg"))
    assert leads_outside(Path(), "../secret.jpg")


def test_the_store_reads_and_stamps_no_file_outside(root: Path) -> None:
    store = ConfinedStore(root)
    assert store.read("link/c.jpg") == b"disk/images/c.jpg"
    assert store.read("d.jpg") == b"file.jpg"
    assert store.read("sub/../a.jpg") == b"set/a.jpg"
    for name in ("../secret.jpg", "link/../secret.jpg", str(root.parent / "secret.jpg")):
        assert FolderStore(root).read(name).endswith(b"secret.jpg")
        for read in (store.read, store.stamp):
            with pytest.raises(ImageError, match="leads outside the dataset's folder"):
                read(name)


def test_many_names_in_one_folder_outside_cost_one_look_at_it(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    resolved: list[Path] = []
    resolve = os.path.realpath

    def counting(path: Path) -> str:
        resolved.append(path)
        return resolve(path)

    monkeypatch.setattr(os.path, "realpath", counting)
    names = [f"/elsewhere/{number}.jpg" for number in range(100)]
    assert names_outside(root, ["a.jpg", *names, "b.jpg"]) == names
    assert resolved == [root / "/elsewhere", root]


def write(root: Path, kind: str, names: list[str]) -> Path:
    """Write an annotation file that lists names."""
    (root / "annotations").mkdir(exist_ok=True)
    pairs = [{"id": i, "file_name": name} for i, name in enumerate(names)]
    captions = [{"image_id": i, "caption": "a dog"} for i, _ in enumerate(names)]
    karpathy = [{"filename": name, "split": "train", "sentences": [{"raw": "a dog"}]} for name in names]
    path, text = {
        "table": ("t.csv", "image,caption\n" + "".join(f"{name},a dog\n" for name in names)),
        "lines": ("t.jsonl", "".join(json.dumps({"file_name": name, "text": "a dog"}) + "\n" for name in names)),
        "coco": ("captions_train.json", json.dumps({"images": pairs, "annotations": captions})),
        "flat": ("list.json", json.dumps([{"image": name, "caption": "a dog"} for name in names])),
        "karpathy": ("dataset_coco.json", json.dumps({"images": karpathy})),
        "flickr30k": (
            "results.csv",
            "image_name| comment_number| comment\n" + "".join(f"{name}| 0| a dog\n" for name in names),
        ),
    }[kind]
    (root / path).write_text(text)
    return root / path


def contents(source: Source) -> list[bytes | str]:
    """Return the content of each image, or why it is not read."""

    def read(path: str) -> bytes | str:
        try:
            return source.images.read(path)
        except ImageError as error:
            return str(error)

    return [read(record.path) for record in source.records]


@pytest.mark.parametrize("kind", ["table", "lines", "coco", "flat", "karpathy", "flickr30k"])
def test_an_image_that_an_annotation_names_outside_is_missing_unless_it_is_allowed(root: Path, kind: str) -> None:
    absolute = str(root.parent / "secret.jpg")
    file = write(
        root, kind, ["a.jpg", "link/c.jpg", "d.jpg", "../secret.jpg", "link/../secret.jpg", absolute, "../x.jpg"]
    )
    source = read_source(file)
    assert source.missing == source.outside == ["../secret.jpg", "link/../secret.jpg", absolute, "../x.jpg"]
    refused = "its name leads outside the dataset's folder (see `allow_outside`)"
    assert contents(source) == [b"set/a.jpg", b"disk/images/c.jpg", b"file.jpg", *[refused] * 4]
    assert source.notes[-1] == (
        "image names that lead outside the dataset's folder and count as missing: 4 (such as ../secret.jpg); stage 1 "
        "reads these images with `allow_outside`"
    )
    allowed = read_source(file, allow_outside=True)
    assert allowed.records == source.records
    assert (allowed.missing, allowed.outside) == (["../x.jpg"], [])
    assert contents(allowed)[3:] == [b"secret.jpg", b"disk/secret.jpg", b"secret.jpg", "there is no such file"]
    assert allowed.notes == [*source.notes[:-1], "images outside the dataset's folder: 3 (such as ../secret.jpg)"]


def test_a_dataset_that_names_nothing_outside_has_no_note_of_it(root: Path) -> None:
    file = write(root, "table", ["a.jpg", "gone.jpg", "sub/../a.jpg"])
    assert read_source(file) == read_source(file, allow_outside=True)
    assert not any("outside" in note for note in read_source(file).notes)


def test_an_absolute_name_of_a_dataset_that_was_moved_finds_the_image_below_the_folder(root: Path) -> None:
    source = read_source(write(root, "table", ["/elsewhere/set/sub/b.jpg", "../sub/b.jpg"]))
    assert [record.path for record in source.records] == ["sub/b.jpg"]
    assert source.missing == []


@pytest.mark.parametrize("strict", [False, True])
def test_the_error_of_missing_images_names_the_option(root: Path, strict: bool) -> None:
    source = understand(write(root, "table", ["a.jpg", "../secret.jpg", "../gone.jpg"]))
    with pytest.raises(
        SourceError, match="complete the folder, or read the 2 that are named outside it with `allow_outside`, or"
    ):
        check_missing(source, strict)
    with pytest.raises(SourceError, match="complete the folder, or") as error:
        check_missing(replace(source, missing=["x.jpg", "y.jpg"]), strict)
    assert "outside" not in str(error.value)


def test_the_setting_reaches_the_reader(root: Path) -> None:
    file = write(root, "table", ["a.jpg", "../secret.jpg"])
    assert understand(file).missing == ["../secret.jpg"]
    assert understand(file, PrecomputeSettings(allow_outside=True)).missing == []


def test_nothing_is_outside_a_url() -> None:
    with pytest.raises(UsageError, match="a URL has nothing outside it"):
        read_source("hub://set", allow_outside=True)


def test_references_find_no_images_outside(root: Path) -> None:
    names = ["a.jpg", "link/c.jpg", "../secret.jpg", "link/../secret.jpg", str(root.parent / "secret.jpg")]
    expected = [root / "a.jpg", root / "link/c.jpg", None, None, None]
    file = write(root, "table", names)
    assert [image.image for image in read_references(file).images] == expected
    assert [image.image for image in read_references(file, folder=root).images] == expected
    (root / "r.json").write_text(json.dumps({name: ["a dog"] for name in names}))
    assert [image.image for image in read_references(root / "r.json", folder=root).images] == expected
