"""Demo images depend on their number alone and show what the scene says; the dataset is a valid COCO folder."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clipcap.data.demo.dataset import file_name, held_out, make_sample, make_scene, write_dataset, write_images
from clipcap.data.demo.drawing import SIZE, draw_image
from clipcap.data.demo.judge import judge
from clipcap.data.demo.scenes import BACKGROUNDS, SHAPES, Group, Scene, generator
from clipcap.data.readers import read_source

# Colours that are far from every background and from every other colour of a sticker.
LIKE = {"red": (214, 40, 40), "yellow": (250, 216, 40)}


def pixels_like(image: Image.Image, colour: str) -> np.ndarray:
    """The coordinates (n, 2), x and y from 0 to 1, of the pixels whose colour is near that of a sticker."""
    distance = np.abs(np.asarray(image).astype(int) - LIKE[colour]).max(axis=2)
    return np.argwhere(distance < 45)[:, ::-1] / SIZE


def test_an_image_depends_on_its_seed_and_number_alone() -> None:
    scene, captions, image = make_sample(5)
    again = make_sample(5)
    assert (scene, captions) == again[:2]
    assert image.tobytes() == again[2].tobytes()
    assert make_sample(5, seed=6)[2].tobytes() != image.tobytes()
    assert scene == make_scene(5)
    assert image.size == (SIZE, SIZE)
    assert image.mode == "RGB"


@pytest.mark.parametrize("background", BACKGROUNDS)
@pytest.mark.parametrize("relation", ["left of", "right of", "above", "below"])
def test_stickers_are_placed_as_the_relation_says(relation: str, background: str) -> None:
    scene = Scene(background, Group(2, "large", "red", "square"), relation, Group(2, "small", "yellow", "circle"))
    image = draw_image(scene, generator(8, 0))
    red, yellow = pixels_like(image, "red"), pixels_like(image, "yellow")
    axis = 0 if relation in ("left of", "right of") else 1
    first, second = (red, yellow) if relation in ("left of", "above") else (yellow, red)
    assert len(first) > 50
    assert len(second) > 50
    assert np.quantile(first[:, axis], 0.98) < 0.5 < np.quantile(second[:, axis], 0.02)
    # Only one relation is true: on the other axis, the centres of the groups are close.
    assert abs(red[:, 1 - axis].mean() - yellow[:, 1 - axis].mean()) < 0.2


def area(group: Group) -> float:
    image = draw_image(Scene("snow", group), generator(9, 1))
    return len(pixels_like(image, "red")) / SIZE**2


def test_more_and_larger_shapes_cover_more_area() -> None:
    one = area(Group(1, "small", "red", "circle"))
    assert 0.01 < one < 0.02  # a disc with a radius of 0.075 sides covers 0.0177, its dark edge is not counted
    assert area(Group(4, "small", "red", "circle")) == pytest.approx(4 * one, rel=0.15)
    assert area(Group(1, "large", "red", "circle")) > 2 * one


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_looks_different(shape: str) -> None:
    def mask(kind: str) -> np.ndarray:
        image = draw_image(Scene("snow", Group(1, "large", "red", kind)), generator(10, 2))
        mask = np.zeros((SIZE, SIZE), dtype=bool)
        x, y = (pixels_like(image, "red") * SIZE).astype(int).T
        mask[y, x] = True
        return mask

    own = mask(shape)
    for other in set(SHAPES) - {shape}:  # the same place, the same radius
        different = mask(other)
        assert (own & different).sum() < 0.9 * (own | different).sum(), other


def test_a_dataset_is_a_coco_folder_with_true_captions(tmp_path: Path) -> None:
    drawn = []
    write_dataset(tmp_path / "scenes", 54, lambda: drawn.append(1))
    assert len(drawn) == 54
    source = read_source(tmp_path / "scenes")
    assert source.format == "coco"
    assert source.counts() == {"train": 51, "val": 3}
    assert source.missing == source.unlisted == source.notes == []
    assert [int(record.id) for record in source.records if record.split == "val"] == held_out(54) == [17, 35, 53]
    for record in source.records:
        scene = make_scene(int(record.id))
        assert Path(record.path).name == file_name(int(record.id))
        assert len(set(record.captions)) == 5
        assert all(all(judge(caption, scene).values()) for caption in record.captions)
    before = {path: path.read_bytes() for path in sorted((tmp_path / "scenes").rglob("*.*"))}
    (tmp_path / "scenes/train2017/000000000000.jpg").write_bytes(b"half a file")
    write_dataset(tmp_path / "scenes", 54)
    assert {path: path.read_bytes() for path in sorted((tmp_path / "scenes").rglob("*.*"))} == before


def test_the_file_of_a_scene_holds_its_image(tmp_path: Path) -> None:
    assert write_images(tmp_path, [3]) == [make_sample(3)[1]]
    stream = io.BytesIO()
    make_sample(3)[2].save(stream, "JPEG", quality=90)
    assert (tmp_path / "000000000003.jpg").read_bytes() == stream.getvalue()


def test_annotation_ids_are_unique(tmp_path: Path) -> None:
    write_dataset(tmp_path, 18)
    files = sorted((tmp_path / "annotations").iterdir())
    assert [file.name for file in files] == ["captions_train2017.json", "captions_val2017.json"]
    numbers = [entry["id"] for file in files for entry in json.loads(file.read_text())["annotations"]]
    assert sorted(numbers) == list(range(90))
