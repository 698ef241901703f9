"""A cache follows its dataset: it becomes the cache of a fresh run, and only what is new is encoded."""

import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from PIL import Image

from clipcap.data.cache.columns import read_attribute, read_texts, write_attribute, write_texts
from clipcap.data.cache.index import Cache, ShardEntry
from clipcap.data.cache.shard import read_shard
from clipcap.data.records import Record, Source
from clipcap.precompute import pipeline
from clipcap.precompute.encoders.base import Encoder
from clipcap.precompute.path_index import PathIndex
from clipcap.precompute.plan import plan_shards
from clipcap.precompute.survey import NONE, Survey
from small_world import Crash, crash_at

Options = list[object]
Precompute = Callable[..., Any]


class Dataset:
    """A dataset of COCO's layout that changes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._captions = folder / "annotations/captions_train2017.json"

    def image(self, number: int) -> Path:
        return self.folder / f"train2017/{number:012d}.jpg"

    def add(self, number: int, colour: str = "orange", place: int | None = None) -> None:
        Image.new("RGB", (50 + number % 7, 40), colour).save(self.image(number))
        content = self._content()
        entry = {"id": number, "file_name": self.image(number).name}
        content["images"].insert(len(content["images"]) if place is None else place, entry)
        content["annotations"].append(
            {"id": 9000 + number, "image_id": number, "caption": f"number {number} is {colour}"}
        )
        self._captions.write_text(json.dumps(content))

    def change(self, number: int) -> None:
        Image.new("RGB", (50, 40), "navy").save(self.image(number))
        os.utime(self.image(number), ns=(0, 1))  # a clock that ticks slowly would keep the time

    def remove(self, number: int) -> None:
        self.image(number).unlink()
        content = self._content()
        content["images"] = [image for image in content["images"] if image["id"] != number]
        content["annotations"] = [one for one in content["annotations"] if one["image_id"] != number]
        self._captions.write_text(json.dumps(content))

    def reword(self, number: int, caption: str) -> None:
        content = self._content()
        for one in content["annotations"]:
            if one["image_id"] == number:
                one["caption"] = caption
        self._captions.write_text(json.dumps(content))

    def rename(self, number: int, name: str) -> None:
        self.image(number).rename(self.image(number).with_name(name))
        self._captions.write_text(self._captions.read_text().replace(self.image(number).name, name))

    def _content(self) -> Any:
        return json.loads(self._captions.read_text())


@pytest.fixture
def dataset(coco: Path) -> Dataset:
    return Dataset(coco)


@pytest.fixture
def precompute(run: Any, clip_folder: Path, tokenizer_folder: Path, dataset: Dataset, tmp_path: Path) -> Precompute:
    def call(*options: object, output: Path = tmp_path / "c.h5", status: int = 0) -> Any:
        models = ("--encoder", clip_folder, "--tokenizer", tokenizer_folder, "--precision", "fp32", "--device", "cpu")
        sizes = ("--batch-size", 2, "--shard-size", 4, "--workers", 0)
        result = run("precompute", dataset.folder, "-o", output, *models, *sizes, *options)
        assert result.status == status, result.err
        return result

    return call


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list to which every batch adds the number of its images."""
    sizes: list[int] = []
    start = pipeline._start

    def counting(encoder: Encoder, pixels: torch.Tensor) -> torch.Tensor:
        sizes.append(len(pixels))
        return start(encoder, pixels)

    monkeypatch.setattr(pipeline, "_start", counting)
    return sizes


def rows(cache: Path) -> dict[str, Any]:
    """Return everything that a cache has of each image, by the image's id."""
    found: dict[str, Any] = {}
    for tables in Cache.open(cache).tables():
        for row, name in enumerate(tables.id):
            captions = range(tables.first_caption[row], tables.first_caption[row + 1])
            tokens = [tables.token[tables.first_token[j] : tables.first_token[j + 1]].tolist() for j in captions]
            views = (
                []
                if tables.view is None or tables.first_view is None
                else np.split(tables.view.astype(np.float64), tables.first_view[1:-1])
            )
            assert tables.sum is not None
            assert name not in found
            found[name] = {
                "embedding": np.vstack([tables.embedding[row].astype(np.float64), *(views[row] if views else [])])
                * tables.scale,
                "told": [tables.path[row], tables.split[row], [tables.text[j] for j in captions], tokens],
                "sum": tables.sum[row].tobytes(),
            }
        found.update(zip(tables.failure_path, tables.failure_reason, strict=True))
    return found


def assert_same_rows(one: Path, other: Path) -> None:
    found, expected = rows(one), rows(other)
    assert found.keys() == expected.keys()
    for name, row in expected.items():
        if isinstance(row, str):
            assert found[name] == row
            continue
        assert found[name]["told"] == row["told"]
        assert found[name]["sum"] == row["sum"]
        a, b = found[name]["embedding"].astype(np.float64), row["embedding"].astype(np.float64)
        assert a.shape == b.shape
        cosines = (a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
        assert cosines.min() >= 0.9999


def times(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.glob("c-*.h5")}


@pytest.mark.parametrize("views", [0, 2])
def test_a_cache_becomes_that_of_a_fresh_run_and_only_new_and_changed_images_are_encoded(
    dataset: Dataset, precompute: Precompute, encoded: list[int], tmp_path: Path, views: int
) -> None:
    precompute("--views", views)
    before = times(tmp_path)
    encoded.clear()
    dataset.add(501)
    dataset.change(103)
    dataset.remove(106)
    dataset.reword(110, "other words")
    result = precompute("--views", views)
    assert sum(encoded) == 2 * (1 + views)
    assert "2 images to encode, 15 known" in result.err
    assert "1 changed, 1 gone, 1 with other captions" in result.err
    assert result.out.startswith(f"{tmp_path}/c.h5: 17 images")
    # The new image is in the place of the one that went. The images of the other two shards stayed as they were.
    assert {name for name, time in times(tmp_path).items() if time == before[name]} == {"c-00003.h5", "c-00004.h5"}
    precompute("--views", views, output=tmp_path / "fresh.h5")
    assert_same_rows(tmp_path / "c.h5", tmp_path / "fresh.h5")
    assert "finished already" in precompute("--views", views).err
    first = read_shard(tmp_path / "c-00000.h5")
    assert first.id == ["101", "102", "103", "104"]  # in the order of the dataset, also with the one that changed


def test_a_renamed_image_stays_in_its_shard_and_has_its_own_row_whatever_is_written_first(
    dataset: Dataset, precompute: Precompute, encoded: list[int], tmp_path: Path
) -> None:
    precompute()
    encoded.clear()
    dataset.add(501, place=0)  # before the renamed one, so it would take the place in shard 0
    dataset.rename(101, "renamed.jpg")
    first, second = dataset.image(103).read_bytes(), dataset.image(106).read_bytes()
    dataset.image(103).write_bytes(second)  # of two shards, each of which has the row of the other
    dataset.image(106).write_bytes(first)
    precompute()
    assert sum(encoded) == 3
    assert read_shard(tmp_path / "c-00000.h5").path[0] == "train2017/renamed.jpg"
    precompute(output=tmp_path / "fresh.h5")
    assert_same_rows(tmp_path / "c.h5", tmp_path / "fresh.h5")


def test_a_shard_all_of_whose_images_went_is_removed(dataset: Dataset, precompute: Precompute, tmp_path: Path) -> None:
    precompute()
    for number in range(105, 109):
        dataset.remove(number)
    assert "4 gone" in precompute().err
    shards = [f"c-0000{number}.h5" for number in (0, 2, 3, 4)]
    assert [shard.path.name for shard in Cache.open(tmp_path / "c.h5").shards] == shards
    assert sorted(times(tmp_path)) == shards
    assert "finished already" in precompute().err
    for number in range(500, 504):
        dataset.add(number)
    precompute()  # the number is free
    assert read_shard(tmp_path / "c-00001.h5").id == ["500", "501", "502", "503"]
    precompute(output=tmp_path / "fresh.h5")
    assert_same_rows(tmp_path / "c.h5", tmp_path / "fresh.h5")


@pytest.mark.parametrize("views", [0, 2])
def test_a_new_image_beyond_float16_brings_its_shard_to_its_scale(
    dataset: Dataset, precompute: Precompute, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, views: int
) -> None:
    precompute("--views", views)
    dataset.remove(106)
    dataset.add(501)
    start = pipeline._start
    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "_start", lambda encoder, pixels: start(encoder, pixels) * 2**20)
        precompute("--views", views)
    precompute("--views", views, output=tmp_path / "fresh.h5")
    truth = rows(tmp_path / "fresh.h5")
    truth["501"]["embedding"] *= 2**20
    shards = list(Cache.open(tmp_path / "c.h5").tables())
    scale = shards[1].scale
    assert "501" in shards[1].id
    needed = 2 ** np.ceil(np.log2(abs(truth["501"]["embedding"]).max() / 65504))
    assert [shard.scale for shard in shards] == [1, needed, 1, 1, 1]
    assert scale > 1
    found = rows(tmp_path / "c.h5")
    assert found.keys() == truth.keys()
    for shard in shards:
        for name in shard.id:
            atol = shard.scale * 2.0**-25  # half the distance of numbers below 2^-14 times the scale
            np.testing.assert_allclose(found[name]["embedding"], truth[name]["embedding"], rtol=2**-10, atol=atol)
    # Another cache copies rows of all of these shards into one.
    again = precompute("--views", views, "--reuse", tmp_path / "c.h5", "--shard-size", 32, output=tmp_path / "one.h5")
    assert "0 images to encode" in again.err
    (joined,) = Cache.open(tmp_path / "one.h5").tables()
    assert joined.scale == scale
    for name, row in rows(tmp_path / "one.h5").items():
        np.testing.assert_allclose(row["embedding"], found[name]["embedding"], rtol=0, atol=scale * 2.0**-25)


def test_new_images_fill_the_last_shard_and_then_new_ones(
    dataset: Dataset, precompute: Precompute, encoded: list[int], tmp_path: Path
) -> None:
    precompute()  # 4 + 4 + 4 + 4 + 1
    before = times(tmp_path)
    for number in range(500, 506):
        dataset.add(number)
    encoded.clear()
    assert "6 images to encode, 17 known" in precompute().err
    assert encoded == [2, 1, 2, 1]  # a new shard, and then the rest of the last one
    assert [shard.images for shard in Cache.open(tmp_path / "c.h5").shards] == [4, 4, 4, 4, 4, 3]
    after = times(tmp_path)
    assert [name for name in before if before[name] != after[name]] == ["c-00004.h5"]
    precompute(output=tmp_path / "fresh.h5")
    assert_same_rows(tmp_path / "c.h5", tmp_path / "fresh.h5")


def test_other_captions_and_splits_need_no_encoder(
    dataset: Dataset, precompute: Precompute, encoded: list[int], tmp_path: Path
) -> None:
    precompute()
    encoded.clear()
    dataset.reword(101, "a new caption")
    moved = "val2017/000000000113.jpg"  # into the split of training images, under another path
    shutil.copy(dataset.folder / moved, dataset.image(113))
    content = json.loads((dataset.folder / "annotations/captions_val2017.json").read_text())
    content["images"] = content["images"][1:]
    content["annotations"] = [one for one in content["annotations"] if one["image_id"] != 113]
    (dataset.folder / "annotations/captions_val2017.json").write_text(json.dumps(content))
    (dataset.folder / moved).unlink()
    dataset.add(113)
    dataset.change(113)
    dataset.rename(101, "renamed.jpg")
    precompute()
    assert sum(encoded) == 1  # image 113 was drawn anew
    precompute(output=tmp_path / "fresh.h5")
    assert_same_rows(tmp_path / "c.h5", tmp_path / "fresh.h5")


def test_an_image_that_was_only_touched_or_copied_is_not_encoded(
    dataset: Dataset, precompute: Precompute, encoded: list[int], tmp_path: Path
) -> None:
    precompute()
    encoded.clear()
    before = times(tmp_path)
    os.utime(dataset.image(101))
    assert "finished already" in precompute().err
    dataset.folder.rename(tmp_path / "moved")
    shutil.copytree(tmp_path / "moved", dataset.folder, copy_function=shutil.copyfile)  # with new times
    assert "finished already" in precompute().err
    assert encoded == []
    assert times(tmp_path) == before


def test_an_image_that_can_be_read_now_is_taken_into_a_finished_cache(
    dataset: Dataset, precompute: Precompute, encoded: list[int], tmp_path: Path
) -> None:
    data = dataset.image(104).read_bytes()
    dataset.image(104).write_bytes(data[:200])
    assert "1 skipped image" in precompute().err
    assert "finished already" in precompute().err
    dataset.image(104).write_bytes(data)
    encoded.clear()
    assert "1 to be read now" in precompute().err
    assert encoded == [1]
    precompute(output=tmp_path / "fresh.h5")
    assert_same_rows(tmp_path / "c.h5", tmp_path / "fresh.h5")
    dataset.image(104).unlink()  # and becomes a failure again
    result = precompute()
    assert "1 gone" in result.err
    assert "there is no such file" in result.err


def test_a_source_that_lacks_most_images_of_the_cache_is_refused_and_nothing_is_lost(
    dataset: Dataset, precompute: Precompute, tmp_path: Path
) -> None:
    precompute()
    before = {path: path.read_bytes() for path in tmp_path.glob("c*.h5")}
    for number in range(101, 110):
        dataset.remove(number)
    result = precompute(status=2)
    assert "9 of 17 images in" in result.err
    assert f"give another --output, where --reuse {tmp_path}/c.h5 copies what it has, or --overwrite" in result.err
    assert "1 of" not in precompute("--limit", 3, status=2).err
    assert {path: path.read_bytes() for path in tmp_path.glob("c*.h5")} == before


def test_an_image_whose_disk_does_not_answer_stays(
    dataset: Dataset, precompute: Precompute, encoded: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    precompute()
    encoded.clear()
    stat = Path.stat

    def failing(self: Path, **options: Any) -> os.stat_result:
        if self == dataset.image(105):
            raise OSError(5, "Input/output error")
        return stat(self, **options)

    dataset.add(501)
    monkeypatch.setattr(Path, "stat", failing)
    assert "1 image to encode, 17 known" in precompute().err
    assert encoded == [1]


@pytest.mark.slow
def test_a_crash_at_any_write_of_growth_leaves_what_the_next_run_completes(
    dataset: Dataset, precompute: Precompute, encoded: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    precompute(output=tmp_path / "old/c.h5")
    for number in range(500, 509):
        dataset.add(number)
    dataset.change(102)
    dataset.remove(109)
    precompute(output=tmp_path / "fresh.h5")
    for count in range(100):
        folder = tmp_path / f"{count}"
        shutil.copytree(tmp_path / "old", folder)
        encoded.clear()
        with monkeypatch.context() as patch:
            crash_at(patch, count)
            try:
                precompute(output=folder / "c.h5")
                crashed = False
            except (Crash, AssertionError):
                crashed = True
        if not crashed:
            break
        precompute(output=folder / "c.h5")
        assert_same_rows(folder / "c.h5", tmp_path / "fresh.h5")
        assert sum(encoded) <= 10 + 2 * 4  # and at most the shards that were being encoded and written
        assert not list(folder.glob(".*"))
    assert count > 10


def test_while_a_cache_grows_it_stays_whole_until_old_shards_are_replaced(
    dataset: Dataset, precompute: Precompute, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    precompute()
    for number in range(500, 506):
        dataset.add(number)
    crash_at(monkeypatch, 3)  # after the shard that is new: it is synced, renamed, and its folder is synced
    with pytest.raises((Crash, AssertionError)):
        precompute()
    monkeypatch.undo()
    assert (tmp_path / "c-00005.h5").exists()
    assert Cache.open(tmp_path / "c.h5").images == 17


@pytest.mark.parametrize("order", [(1, 2), (2, 1)])
def test_parts_grow_a_cache(dataset: Dataset, precompute: Precompute, tmp_path: Path, order: tuple[int, int]) -> None:
    precompute()
    for number in range(500, 509):
        dataset.add(number)
    dataset.remove(101)
    for part in order:
        result = precompute("--part", f"{part}/2")
    assert result.out.startswith(f"{tmp_path}/c.h5: 25 images")
    precompute(output=tmp_path / "fresh.h5")
    assert_same_rows(tmp_path / "c.h5", tmp_path / "fresh.h5")


def test_caches_merge_and_what_they_have_is_copied(
    dataset: Dataset, precompute: Precompute, encoded: list[int], tmp_path: Path
) -> None:
    precompute("--limit", 8, output=tmp_path / "some.h5")
    precompute("--limit", 8, "--seed", 1, output=tmp_path / "others.h5")
    known = len(rows(tmp_path / "some.h5").keys() | rows(tmp_path / "others.h5").keys())
    assert 8 < known < 17
    encoded.clear()
    result = precompute("--reuse", tmp_path / "some.h5", "--reuse", tmp_path / "others.h5")
    assert sum(encoded) == 17 - known
    assert f"{17 - known} images to encode, {known} known" in result.err
    precompute(output=tmp_path / "fresh.h5")
    assert_same_rows(tmp_path / "c.h5", tmp_path / "fresh.h5")
    encoded.clear()
    precompute("--reuse", tmp_path / "c-00001.h5", "--batch-size", 3, output=tmp_path / "of-a-shard.h5")
    assert sum(encoded) == 13


def test_a_cache_of_the_same_images_elsewhere_is_reused_by_their_content(
    dataset: Dataset, precompute: Precompute, encoded: list[int], tmp_path: Path
) -> None:
    precompute(output=tmp_path / "old.h5")
    for number in range(101, 113):
        dataset.rename(number, f"{number}.jpeg")
    encoded.clear()
    precompute("--reuse", tmp_path / "old.h5")
    assert encoded == []
    precompute(output=tmp_path / "fresh.h5")
    assert_same_rows(tmp_path / "c.h5", tmp_path / "fresh.h5")


@pytest.mark.parametrize(
    ("made_with", "fact"),
    [
        (("--precision", "bf16"), "precision: bf16, not fp32"),
        (("--features", "pooled"), "features: pooled, not projected"),
    ],
)
def test_a_cache_with_other_embeddings_is_not_reused(
    precompute: Precompute, tmp_path: Path, made_with: tuple[str, ...], fact: str
) -> None:
    precompute(*made_with, output=tmp_path / "other.h5")
    result = precompute("--reuse", tmp_path / "other.h5", status=2)
    assert f"--reuse {tmp_path}/other.h5 has other embeddings ({fact}" in result.err
    assert not (tmp_path / "c.h5").exists()


def test_a_cache_without_the_views_is_not_reused(precompute: Precompute, tmp_path: Path) -> None:
    precompute(output=tmp_path / "other.h5")
    result = precompute("--reuse", tmp_path / "other.h5", "--views", 1, status=2)
    assert "(views: 0, not 1)" in result.err


def test_the_output_itself_is_not_reused(precompute: Precompute, tmp_path: Path) -> None:
    precompute()
    for name in ("c.h5", "c-00001.h5"):
        assert "is the output itself" in precompute("--reuse", tmp_path / name, "--overwrite", status=2).err
    assert Cache.open(tmp_path / "c.h5").images == 17


def test_a_damaged_cache_is_not_reused(precompute: Precompute, tmp_path: Path) -> None:
    precompute(output=tmp_path / "other.h5")
    with h5py.File(tmp_path / "other-00002.h5", "r+") as file:
        file["images/embedding"][0] += 1
    result = precompute("--reuse", tmp_path / "other.h5", status=2)
    assert "other-00002.h5 is damaged" in result.err
    assert not (tmp_path / "c.h5").exists()


def test_a_cache_of_version_0_1_grows_by_paths_and_by_the_time_of_its_shards(
    dataset: Dataset, precompute: Precompute, encoded: list[int], tmp_path: Path
) -> None:
    precompute()
    for path in tmp_path.glob("c-*.h5"):
        forget_sums(path)
    write_index_again(tmp_path / "c.h5")
    encoded.clear()
    assert "finished already" in precompute().err
    dataset.add(501)
    dataset.image(108).write_bytes(dataset.image(109).read_bytes())
    os.utime(dataset.image(108), ns=(0, 2**62))
    precompute()
    assert sum(encoded) == 2
    precompute(output=tmp_path / "fresh.h5")
    tables = read_shard(tmp_path / "c-00001.h5")  # that of image 108
    expected = rows(tmp_path / "fresh.h5")
    assert tables.sum is not None  # of the images that were copied too
    assert [one.tobytes() for one in tables.sum] == [expected[name]["sum"] for name in tables.id]


def forget_sums(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        for name in ("sum", "file_size", "file_time"):
            del file[f"images/{name}"]
    content = read_shard(path).content()
    with h5py.File(path, "r+") as file:
        write_attribute(file, "content", content)


def write_index_again(index: Path) -> None:
    with h5py.File(index, "r+") as file:
        names = read_texts(file, "shards/name")
        del file["shards/content"]
        contents = []
        for name in names:
            with h5py.File(index.with_name(name)) as shard:
                contents.append(read_attribute(shard, "content"))
        write_texts(file, "shards/content", contents)


def test_a_new_tokenizer_stays_when_the_captions_change(
    dataset: Dataset, precompute: Precompute, tmp_path: Path
) -> None:
    precompute("--tokenizer", "new:300")
    before = (tmp_path / "c-tokenizer/tokenizer.json").read_bytes()
    for number in range(500, 520):
        dataset.add(number, "purple")
    precompute("--tokenizer", "new:300")
    assert (tmp_path / "c-tokenizer/tokenizer.json").read_bytes() == before
    assert Cache.open(tmp_path / "c.h5").images == 37
    assert "finished already" in precompute("--tokenizer", "new:300").err
    precompute("--tokenizer", "new:300", "--retokenize")  # unless it is asked for
    assert (tmp_path / "c-tokenizer/tokenizer.json").read_bytes() != before


def test_records_are_found_by_path_also_where_missing_images_share_one() -> None:
    paths = ["a.jpg", "b.jpg", "a.jpg", "\ud800.jpg", "d/c.jpg"]
    index = PathIndex([Record(str(i), path, "train", ()) for i, path in enumerate(paths)])
    assert [list(index.find(path)) for path in ("a.jpg", "b.jpg", "?.jpg", "d/c.jpg", "c.jpg")] == [
        [0, 2],
        [1],
        [3],
        [4],
        [],
    ]
    assert list(PathIndex([]).find("a.jpg")) == []


@pytest.mark.parametrize("seed", range(20))
def test_what_is_left_of_a_plan_is_the_rest_of_the_same_plan(seed: int) -> None:
    draw = random.Random(seed)
    count, size = draw.randrange(1, 60), draw.randrange(1, 6)
    records = [Record(str(i), f"{i}.jpg", "train", ()) for i in range(count)]
    survey = Survey(Source(format="folder", root=Path(), records=records), 0)
    for number in draw.sample(range(8), draw.randrange(8)):  # shards that exist, with some records
        free = np.flatnonzero(survey.shard == NONE)
        chosen = free[sorted(draw.sample(range(len(free)), min(len(free), draw.randrange(size + 1))))]
        survey.shard[chosen] = survey.file[chosen] = survey.row[chosen] = number
        finish(survey, number)
    whole = plan_shards(survey, size)
    assert sorted(np.concatenate(list(whole.shards.values())).tolist()) == list(range(count))
    assert all(len(share) <= size for share in whole.shards.values())
    for number in draw.sample(sorted(whole.shards), draw.randrange(len(whole.shards) + 1)):
        survey.shard[whole.shards[number]] = number
        finish(survey, number)
    rest = plan_shards(survey, size)
    assert rest.shards.keys() == whole.shards.keys()
    assert all(rest.shards[number].tolist() == share.tolist() for number, share in whole.shards.items())


def finish(survey: Survey, number: int) -> None:
    survey.finished[number] = ShardEntry(path=Path(), images=0, captions=0, tokens=0, content="")
