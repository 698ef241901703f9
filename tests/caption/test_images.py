"""`--save-pictures`, and several models over the same inputs."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from clipcap.caption.images import PictureFolder, with_caption


@pytest.mark.parametrize("size", [(640, 480), (40, 600), (3000, 20), (320, 200)])
def test_the_picture_stays_and_the_words_stand_below(size: tuple[int, int]) -> None:
    picture = Image.new("RGB", size, (10, 200, 30))
    short, long = with_caption(picture, ["A dog."]), with_caption(picture, ["many words " * 30, "and more"])
    left = (short.width - size[0]) // 2
    assert short.crop((left, 0, left + size[0], size[1])).tobytes() == picture.tobytes()
    assert short.size[1] < long.size[1]
    for sheet in (short, long):
        strip = np.asarray(sheet)[size[1] :]
        ink = np.argwhere((strip < 100).all(axis=-1))
        assert len(ink) > 20
        assert (strip[0] == 255).all() and (strip[-1] == 255).all() and (strip[:, -2:] == 255).all()  # none is cut off


def test_two_pictures_of_one_name(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        Image.new("RGB", (30, 30)).save(tmp_path / folder / "x.png")
    pictures = PictureFolder(tmp_path / "out/deep")
    for folder in ("a", "b"):
        pictures.save(tmp_path / folder / "x.png", ["words"])
    assert sorted(path.name for path in (tmp_path / "out/deep").iterdir()) == ["x-2.jpg", "x.jpg"]


def test_a_folder_against_several_models(tmp_path: Path, run: Any, trained: Path, small_cache: Path) -> None:
    pictures = small_cache.parent / "coco/val2017"
    best, last = trained / "best", trained / "last"
    one = json.loads(run("caption", pictures, "--model", best, "--device", "cpu", "--json").out)
    two = json.loads(run("caption", pictures, "--model", last, "--device", "cpu", "--json").out)
    both = ["--model", best, "--model", last, "--device", "cpu"]
    result = run("caption", pictures, *both, "--csv", "--save-pictures", tmp_path / "out")
    assert result.status == 0, result.err
    table = list(csv.reader(io.StringIO(result.out)))
    assert table[0] == ["image", "model", "caption"]
    assert table[1:] == [[e["input"], str(m), e["caption"]] for m, some in ((best, one), (last, two)) for e in some]
    assert sorted(p.relative_to(tmp_path / "out").as_posix() for p in (tmp_path / "out").rglob("*.jpg")) == sorted(
        f"{model}/{Path(entry['input']).name}" for model in ("best", "last") for entry in one
    )
    lines = run("caption", pictures, *both, "--jsonl").out.splitlines()
    assert [json.loads(line)["model"] for line in lines] == [str(best)] * 5 + [str(last)] * 5
    text = run("caption", sorted(pictures.iterdir())[0], *both).out.splitlines()
    assert text[0] == f"{one[0]['input']} [{best}]: {one[0]['caption']}"


def test_rows_have_no_pictures(run: Any, trained: Path, small_cache: Path, tmp_path: Path) -> None:
    result = run("caption", small_cache, "--model", trained, "--save-pictures", tmp_path / "out")
    assert result.status == 2
    assert result.err == f"clipcap-caption: --save-pictures is for pictures; {small_cache} holds rows\n"
