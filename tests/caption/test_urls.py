"""Captioning images behind URLs: the captions of the files, each image fetched once, and errors as in stage 1."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
from fsspec.registry import known_implementations

from clipcap.caption import caption
from clipcap.data.errors import SourceError
from remote_hub import Hub
from small_world import Result


@pytest.fixture
def model(trained: Path) -> list[object]:
    return ["--model", trained / "best", "--device", "cpu"]


@pytest.fixture
def folder(small_cache: Path) -> Path:
    """A folder of five images."""
    return small_cache.parent / "coco/val2017"


def captions(result: Result) -> list[str]:
    """Return the captions that were printed as JSON."""
    assert result.status == 0, result.err
    return [entry["caption"] for entry in json.loads(result.out)]


def test_an_image_of_a_web_server_has_the_caption_of_the_file_and_its_token_is_not_shown(
    tmp_path: Path, run: Any, model: list[object], folder: Path, web: str
) -> None:
    image = min(folder.iterdir())
    (tmp_path / "web/private").mkdir()
    (tmp_path / "web/private/a b.jpg").write_bytes(image.read_bytes())
    expected = run("caption", image, *model)
    assert expected.status == 0
    url = f"{web}/private/a%20b.jpg?token=s3cret"
    assert run("caption", url, *model) == expected
    named = run("caption", url, "--jsonl", *model)
    assert json.loads(named.out)["input"] == f"{web}/private/a%20b.jpg"
    refused = run("caption", f"{web}/private/a%20b.jpg?token=wr0ng", *model)
    assert (refused.status, refused.out) == (2, "")
    assert refused.err.startswith(f"clipcap-caption: {web}/private/a%20b.jpg ")
    assert refused.err.count("\n") == 1
    assert "wr0ng" not in refused.err


def test_a_folder_and_files_are_captioned_in_order_and_each_image_is_fetched_once(
    run: Any, model: list[object], folder: Path, hub: type[Hub]
) -> None:
    hub.add(folder, "set/holiday")
    hub.files |= {"set/holiday/notes.txt": b"x", "set/holiday/.hidden/a.jpg": b"x"}
    files = sorted(folder.iterdir())
    result = run("caption", files[1], "hub://set/holiday/", files[0], "--json", "--batch-size", 2, *model)
    assert captions(result) == captions(run("caption", files[1], folder, files[0], "--json", *model))
    names = [entry["input"] for entry in json.loads(result.out)]
    assert names == [str(files[1]), *(f"hub://set/holiday/{file.name}" for file in files), str(files[0])]
    assert hub.requests == {f"set/holiday/{file.name}": 1 for file in files}


def test_urls_on_stdin_that_cannot_be_read_are_skipped(
    run: Any, model: list[object], folder: Path, hub: type[Hub], monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add(folder, "set")
    hub.files["set/bad.jpg"] = b"no image"
    image = min(folder.iterdir())
    lines = f"hub://set/{image.name}\nhub://set/none.jpg\nhub://set/bad.jpg\n{image}\n"
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(lines.encode())))
    result = run("caption", "-", "--json", *model)
    found = json.loads(result.out)
    assert [entry["input"] for entry in found if "caption" in entry] == [f"hub://set/{image.name}", str(image)]
    assert [entry["input"] for entry in found if "error" in entry] == ["hub://set/none.jpg", "hub://set/bad.jpg"]
    fact = "hub://set/none.jpg does not exist, or is private; check the URL, or sign in"
    assert f"warning: hub://set/none.jpg skipped: {fact}\n" in result.err
    assert "warning: hub://set/bad.jpg skipped: not an image of a known format\n" in result.err


def test_python_takes_a_url_as_text(trained: Path, folder: Path, hub: type[Hub]) -> None:
    hub.add(folder, "set")
    image = min(folder.iterdir())
    (remote,) = caption(f"hub://set/{image.name}", trained / "best")
    (local,) = caption(image, trained / "best")
    assert (remote.input, remote.image) == (f"hub://set/{image.name}", None)
    assert remote.captions == local.captions
    hub.failures[f"set/{image.name}"] = [ConnectionError("timed out")] * 3
    with pytest.raises(SourceError, match=r"^none of 1 image could be read"):
        list(caption(f"hub://set/{image.name}", trained / "best"))


def test_a_url_without_images_is_one_line(
    tmp_path: Path, run: Any, model: list[object], hub: type[Hub], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(
        known_implementations, "far", {"class": "far_away_fs.FarFileSystem", "err": "Install far_away_fs"}
    )
    hub.files |= {"set/a.jpg": b"x", "texts/a.txt": b"x"}
    answers = {
        ("hub://set/none.jpg",): "hub://set/none.jpg does not exist, or is private; check the URL, or sign in",
        ("hub://texts",): "hub://texts holds no images, or cannot be listed; check the URL",
        ("hub://me:secret@set/rows.npy",): "hub://set/rows.npy has no images, and embeddings are read from files; "
        "download it",
        ("hub://set/c.h5",): "hub://set/c.h5 has no images, and embeddings are read from files; download it",
        ("far://b/x.jpg",): "far://b/x.jpg needs the package far_away_fs, which is missing: pip install far_away_fs",
        ("hub://set", "--split", "val"): "--split val is for caches, and hub://set is a URL",
        ("hub://set/a.jpg", "--save-images", tmp_path / "new"): "--save-images is for image files, and hub://set/a.jpg "
        "is a URL; download it",
    }
    for arguments, answer in answers.items():
        result = run("caption", *arguments, *model)
        assert (result.status, result.out, result.err) == (2, "", f"clipcap-caption: {answer}\n")
    assert not (tmp_path / "new").exists()
