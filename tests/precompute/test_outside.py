"""Stage 1 encodes images that annotations name outside the dataset's folder only if the user allows it."""

import json
from pathlib import Path
from typing import Any

import pytest

from clipcap.caption.evaluate.references import read_references
from clipcap.data.cache.index import Cache


@pytest.fixture
def table(coco: Path) -> Path:
    """A table of three images in its folder and one outside it."""
    names = [f"000000000{number}.jpg" for number in (101, 102, 103)] + ["../val2017/000000000113.jpg"]
    file = coco / "train2017/t.csv"
    file.write_text("image,caption\n" + "".join(f"{name},a dog\n" for name in names))
    return file


def paths(cache: Path) -> list[str]:
    return [path for tables in Cache.open(cache).tables() for path in tables.path]


def test_images_outside_are_encoded_when_they_are_allowed(
    table: Path, tmp_path: Path, run: Any, clip_folder: Path, tokenizer_folder: Path
) -> None:
    options = ["--encoder", clip_folder, "--tokenizer", tokenizer_folder, "--workers", 0, "--device", "cpu"]
    result = run("precompute", table, "-o", tmp_path / "c.h5", *options)
    assert result.status == 0, result.err
    assert len(paths(tmp_path / "c.h5")) == 3
    assert "1 of 4 listed images do not exist (such as ../val2017/000000000113.jpg)" in result.err
    assert (
        "lead outside the dataset's folder and count as missing: 1 (such as ../val2017/000000000113.jpg)" in result.err
    )
    assert "--allow-outside" in result.err
    result = run("precompute", table, "-o", tmp_path / "c.h5", *options, "--allow-outside")
    assert result.status == 0, result.err
    assert "do not exist" not in result.err
    assert sorted(paths(tmp_path / "c.h5"))[0] == "../val2017/000000000113.jpg"
    assert len(paths(tmp_path / "c.h5")) == 4
    images = {image.path: image.image for image in read_references(tmp_path / "c.h5", folder=table.parent).images}
    assert images["../val2017/000000000113.jpg"] is None, "a report shows no image from outside"
    assert images["000000000101.jpg"] == table.parent / "000000000101.jpg"
    result = run("precompute", table, "-o", tmp_path / "c.h5", *options)
    assert len(paths(tmp_path / "c.h5")) == 3, "an image that is no longer allowed is taken out"


def test_the_error_of_more_than_half_missing_names_the_option(table: Path, tmp_path: Path, run: Any) -> None:
    names = ["000000000101.jpg", "../val2017/000000000113.jpg", "../val2017/000000000114.jpg"]
    (table.parent / "t.csv").unlink()
    (table.parent / "list.json").write_text(json.dumps([{"image": name, "caption": "a dog"} for name in names]))
    result = run("precompute", table.parent, "-o", tmp_path / "c.h5")
    assert (result.status, len(result.err.splitlines()[-1:])) == (2, 1)
    assert "or read the 2 that are named outside it with --allow-outside, or use the 1 that exist" in result.err
    assert "listed but missing: none" in run("precompute", table.parent, "--dry-run", "--allow-outside").out
