"""`--save-images`, and several models over the same inputs."""

import csv
import io
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from clipcap.caption.images import ImageFolder, is_captioned_image, with_caption
from clipcap.data.errors import ClipCapError, UsageError
from clipcap.data.lock import hold_lock


@pytest.fixture
def photos(tmp_path: Path, small_cache: Path) -> Path:
    """A folder of five images of a test's own."""
    folder = tmp_path / "photos"
    shutil.copytree(small_cache.parent / "coco/val2017", folder)
    return folder


@pytest.fixture
def model(trained: Path) -> list[object]:
    return ["--model", trained / "best", "--device", "cpu"]


def contents(folder: Path) -> dict[str, bytes]:
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.mark.parametrize("size", [(640, 480), (40, 600), (3000, 20), (320, 200)])
def test_the_image_is_unchanged_and_the_captions_are_below(size: tuple[int, int]) -> None:
    image = Image.new("RGB", size, (10, 200, 30))
    short, long = with_caption(image, ["A dog."]), with_caption(image, ["many words " * 30, "and more"])
    left = (short.width - size[0]) // 2
    assert short.crop((left, 0, left + size[0], size[1])).tobytes() == image.tobytes()
    assert short.size[1] < long.size[1]
    for sheet in (short, long):
        strip = np.asarray(sheet)[size[1] :]
        ink = np.argwhere((strip < 100).all(axis=-1))
        assert len(ink) > 20
        assert (strip[0] == 255).all() and (strip[-1] == 255).all() and (strip[:, -2:] == 255).all()  # none is cut off


def test_a_second_image_of_the_same_name_gets_a_number(tmp_path: Path) -> None:
    images = [tmp_path / folder / "x.png" for folder in ("a", "b")]
    for image in images:
        image.parent.mkdir()
        Image.new("RGB", (30, 30)).save(image)
    with ImageFolder(tmp_path / "out/deep", images).locked() as folder:
        saved = [folder.save(image, ["words"]) for image in images]
    assert saved == [tmp_path / "out/deep/x.jpg", tmp_path / "out/deep/x-2.jpg"]
    assert sorted((tmp_path / "out/deep").iterdir()) == sorted(saved)
    assert all(map(is_captioned_image, saved))
    assert not any(map(is_captioned_image, images))


def test_several_models_caption_a_folder_in_turn(tmp_path: Path, run: Any, trained: Path, small_cache: Path) -> None:
    images = small_cache.parent / "coco/val2017"
    best, last = trained / "best", trained / "last"
    one = json.loads(run("caption", images, "--model", best, "--device", "cpu", "--json").out)
    two = json.loads(run("caption", images, "--model", last, "--device", "cpu", "--json").out)
    both = ["--model", best, "--model", last, "--device", "cpu"]
    result = run("caption", images, *both, "--csv", "--save-pictures", tmp_path / "out")
    assert result.status == 0, result.err
    table = list(csv.reader(io.StringIO(result.out)))
    assert table[0] == ["image", "model", "caption", "error"]
    assert table[1:] == [[e["input"], str(m), e["caption"], ""] for m, some in ((best, one), (last, two)) for e in some]
    assert sorted(p.relative_to(tmp_path / "out").as_posix() for p in (tmp_path / "out").rglob("*.jpg")) == sorted(
        f"{model}/{Path(entry['input']).name}" for model in ("best", "last") for entry in one
    )
    lines = run("caption", images, *both, "--jsonl").out.splitlines()
    assert [json.loads(line)["model"] for line in lines] == [str(best)] * 5 + [str(last)] * 5
    text = run("caption", sorted(images.iterdir())[0], *both).out.splitlines()
    assert text[0] == f"{one[0]['input']} [{best}]: {one[0]['caption']}"


def test_embeddings_cannot_be_saved_as_images(run: Any, trained: Path, small_cache: Path, tmp_path: Path) -> None:
    result = run("caption", small_cache, "--model", trained, "--save-pictures", tmp_path / "out")
    assert result.status == 2
    assert "--save-images" in result.err and str(small_cache) in result.err


def test_images_are_never_saved_over_the_originals(photos: Path, run: Any, model: list[object]) -> None:
    before = contents(photos)
    for option in ("--save-pictures", "--save-images"):
        result = run("caption", photos, *model, option, photos)
        assert result.status == 2
        assert str(photos / "000000000113.jpg") in result.err
        assert contents(photos) == before


def test_a_file_of_another_program_is_never_replaced(
    tmp_path: Path, run: Any, photos: Path, model: list[object]
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "000000000117.jpg").write_text("precious")
    assert run("caption", photos, *model, "--save-images", out).status == 2
    (out / "000000000117.jpg").unlink()
    (out / "000000000117.jpg").symlink_to(tmp_path / "elsewhere.jpg")
    assert run("caption", photos, *model, "--save-images", out).status == 2
    assert [path.name for path in out.iterdir()] == ["000000000117.jpg"]
    assert not (tmp_path / "elsewhere.jpg").exists()


def test_saved_images_are_replaced_but_not_captioned(photos: Path, run: Any, model: list[object]) -> None:
    first = run("caption", photos, *model, "--save-images", photos / "captioned")
    saved = contents(photos / "captioned")
    assert first.status == 0
    assert len(saved) == 5
    again = run("caption", photos, *model, "--save-images", photos / "captioned")
    assert (again.status, again.out) == (0, first.out)
    assert contents(photos / "captioned") == saved
    assert "5 images" in again.err
    assert run("caption", photos / "**/*.jpg", *model).out == first.out
    assert run("caption", photos / "captioned", *model).status == 2
    # A person who names the file means it; but it is not captioned into itself.
    image = photos / "captioned/000000000113.jpg"
    assert run("caption", image, *model).status == 0
    assert run("caption", image, *model, "--save-images", photos / "captioned").status == 2
    assert contents(photos / "captioned") == saved


def test_an_image_that_was_edited_is_the_persons_own(tmp_path: Path) -> None:
    image, file = tmp_path / "a.png", tmp_path / "out/a.jpg"
    Image.new("RGB", (30, 30)).save(image)
    with ImageFolder(file.parent, [image]).locked() as folder:
        folder.save(image, ["words"])
    with Image.open(file) as saved:
        exif = saved.getexif()
        exif[0x0131] = "GIMP 2.10"
        saved.copy().save(file, exif=exif)
    with pytest.raises(UsageError, match=str(file)):
        ImageFolder(file.parent, [image])


def test_an_image_is_saved_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image, out = tmp_path / "a.png", tmp_path / "out"
    Image.new("RGB", (30, 30)).save(image)
    with ImageFolder(out, [image]).locked() as folder:
        file = folder.save(image, ["words"])
        before = file.read_bytes()
        # A link at the name of the temporary file is never followed.
        (tmp_path / "target").write_text("precious")
        (out / ".a.jpg.partial").symlink_to(tmp_path / "target")
        folder.save(image, ["other words"])
        assert (tmp_path / "target").read_text() == "precious"
        folder.save(image, ["words"])

        def fail(self: Any, stream: Any, *_: Any, **__: Any) -> None:
            stream.write(b"half")
            raise OSError("no space")

        monkeypatch.setattr(Image.Image, "save", fail)
        with pytest.raises(ClipCapError):
            folder.save(image, ["other words"])
    assert contents(out) == {"a.jpg": before}


def test_two_runs_never_save_into_one_folder(tmp_path: Path, run: Any, photos: Path, model: list[object]) -> None:
    (tmp_path / "out").mkdir()
    with hold_lock(tmp_path / "out/.clipcap-caption.lock", "out"):
        result = run("caption", photos, *model, "--save-images", tmp_path / "out")
    assert result.status == 2
    assert str(os.getpid()) in result.err
    assert contents(tmp_path / "out") == {}
