"""Stage 1 on a small dataset with a small CLIP: what it writes, skips, continues and refuses."""

import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import open_clip
import pytest
import torch
from PIL import Image

from clipcap.data.cache.index import Cache
from clipcap.data.cache.shard import ShardTables, read_shard
from clipcap.data.errors import UsageError
from clipcap.data.pretrained.tokenizer import encode_captions, load_tokenizer
from clipcap.precompute import pipeline
from clipcap.precompute.dataset import understand
from clipcap.precompute.encoders.base import Encoder
from clipcap.precompute.encoders.load import load_encoder
from clipcap.precompute.settings import PrecomputeSettings
from clipcap.precompute.start import precompute

Options = list[object]


@pytest.fixture
def options(clip_folder: Path, tokenizer_folder: Path) -> Options:
    return [
        *("--encoder", clip_folder, "--tokenizer", tokenizer_folder),
        *("--batch-size", 4, "--workers", 0, "--device", "cpu", "--shard-size", 7, "--precision", "fp32"),
    ]


def all_tables(cache: Path) -> list[ShardTables]:
    return list(Cache.open(cache).tables())


def contents(cache: Path) -> list[str]:
    return [shard.content for shard in Cache.open(cache).shards]


def break_image(path: Path, how: str) -> None:
    data = path.read_bytes()
    path.write_bytes({"truncated": data[: len(data) // 2], "text": b"not found", "empty": b""}[how])


def test_every_image_and_caption_is_in_the_cache_in_order(
    coco: Path, tmp_path: Path, run: Any, options: Options, tokenizer_folder: Path
) -> None:
    result = run("precompute", coco, "-o", tmp_path / "c.h5", *options)
    assert result.status == 0, result.err
    count = Cache.open(tmp_path / "c.h5").tokens
    assert result.out == f"{tmp_path}/c.h5: 17 images, 48 captions, {count:,} tokens, 3 shards, width 16\n"
    assert [shard.path.name for shard in Cache.open(tmp_path / "c.h5").shards] == [
        "c-00000.h5",
        "c-00001.h5",
        "c-00002.h5",
    ]
    shards = all_tables(tmp_path / "c.h5")
    assert [len(shard.id) for shard in shards] == [7, 7, 3]
    listed = []
    for split in ("train", "val"):
        content = json.loads((coco / f"annotations/captions_{split}2017.json").read_text())
        texts: dict[int, list[str]] = {}
        for annotation in content["annotations"]:
            texts.setdefault(annotation["image_id"], []).append(annotation["caption"])
        listed += [(str(i["id"]), f"{split}2017/{i['file_name']}", split, texts[i["id"]]) for i in content["images"]]
    tokenizer = load_tokenizer(str(tokenizer_folder))
    found = []
    for shard in shards:
        for i, identifier in enumerate(shard.id):
            rows = slice(shard.first_caption[i], shard.first_caption[i + 1])
            found.append((identifier, shard.path[i], ("train", "val", "test")[shard.split[i]], shard.text[rows]))
        tokens = [shard.token[a:b].tolist() for a, b in zip(shard.first_token, shard.first_token[1:], strict=False)]
        assert tokens == encode_captions(tokenizer, shard.text)
        assert all(row[-1] == tokenizer.eos_token_id for row in tokens)
    assert found == listed


def test_embeddings_are_those_of_open_clip(
    coco: Path, tmp_path: Path, run: Any, options: Options, clip_folder: Path
) -> None:
    assert run("precompute", coco, "-o", tmp_path / "c.h5", *options).status == 0
    model, _, transform = open_clip.create_model_and_transforms(f"local-dir:{clip_folder}")
    for shard in all_tables(tmp_path / "c.h5"):
        pixels = torch.stack([transform(Image.open(coco / path)) for path in shard.path])
        with torch.inference_mode():
            expected = model.eval().encode_image(pixels)
        torch.testing.assert_close(torch.from_numpy(shard.embedding).float(), expected, rtol=1e-3, atol=1e-4)


def test_each_image_is_encoded_once_whatever_its_number_of_captions(
    coco: Path, tmp_path: Path, run: Any, options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches: list[int] = []
    start = Encoder.start

    def counted(self: Encoder, pixels: torch.Tensor) -> torch.Tensor:
        batches.append(len(pixels))
        return start(self, pixels)

    monkeypatch.setattr(Encoder, "start", counted)
    assert run("precompute", coco, "-o", tmp_path / "c.h5", *options).status == 0
    # The first call finds the width. No batch reaches into the next shard of 7.
    assert batches == [1, 4, 3, 4, 3, 3]


def test_the_number_of_workers_does_not_change_the_cache(
    coco: Path, tmp_path: Path, run: Any, options: Options
) -> None:
    assert run("precompute", coco, "-o", tmp_path / "a.h5", *options).status == 0
    assert run("precompute", coco, "-o", tmp_path / "b.h5", *options, "--workers", 2).status == 0
    assert contents(tmp_path / "a.h5") == contents(tmp_path / "b.h5")


def test_a_second_run_changes_nothing_in_a_finished_cache(
    coco: Path, tmp_path: Path, run: Any, options: Options
) -> None:
    run("precompute", coco, "-o", tmp_path / "c.h5", *options)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.h5")}
    result = run("precompute", coco, "-o", tmp_path / "c.h5", *options)
    assert result.status == 0
    assert "c.h5 is finished already" in result.err
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.h5")} == before


def test_a_finished_cache_says_so_before_a_model_is_loaded_unless_only_the_model_can_tell(
    coco: Path, tmp_path: Path, run: Any, clip_folder: Path, tokenizer_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = tmp_path / "clip"
    shutil.copytree(clip_folder, clip)
    monkeypatch.chdir(tmp_path)
    options = [coco, "-o", "c.h5", "--encoder", "clip", "--tokenizer", tokenizer_folder, "--device", "cpu"]
    assert run("precompute", *options).status == 0
    loaded: list[str] = []

    def load(name: str, *arguments: Any, **named: Any) -> Encoder:
        loaded.append(name)
        return load_encoder(name, *arguments, **named)

    monkeypatch.setattr("clipcap.precompute.start.load_encoder", load)
    assert "finished already" in run("precompute", *options).err
    assert "finished already" in run("precompute", *options, "--limit", 17).err  # the same images
    assert loaded == []
    for other in (["--batch-size", 5], ["--precision", "fp16"], ["--features", "pooled"], ["--limit", 9]):
        assert run("precompute", *options, *other).status == 2
    assert len(loaded) == 4
    weights = next(clip.glob("*.safetensors"))
    time.sleep(0.05)  # longer than the clock of a file system
    shutil.copy2(weights, tmp_path / "copy")
    (tmp_path / "copy").replace(weights)  # an old file that was put there later
    assert "finished already" in run("precompute", *options).err  # with the same weights as before
    assert len(loaded) == 5


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (["--batch-size", 5], "batch_size: 4, not 5"),
        (["--limit", 9], "--limit 9 would take 8 images out of "),
        (["--precision", "bf16"], "precision: fp32, not bf16"),
    ],
)
def test_another_recipe_is_refused_by_name_until_overwrite(
    coco: Path, tmp_path: Path, run: Any, options: Options, change: list[Any], named: str
) -> None:
    run("precompute", coco, "-o", tmp_path / "c.h5", *options)
    before = Cache.open(tmp_path / "c.h5")
    result = run("precompute", coco, "-o", tmp_path / "c.h5", *options, *change)
    assert result.status == 2
    assert named in result.err
    assert "--overwrite" in result.err
    assert result.err.splitlines()[-1].startswith("clipcap-precompute: ")
    assert Cache.open(tmp_path / "c.h5") == before
    assert run("precompute", coco, "-o", tmp_path / "c.h5", *options, *change, "--overwrite").status == 0
    assert Cache.open(tmp_path / "c.h5").fingerprint.differences(before.fingerprint)


def test_overwrite_leaves_no_shard_of_a_larger_cache(coco: Path, tmp_path: Path, run: Any, options: Options) -> None:
    run("precompute", coco, "-o", tmp_path / "c.h5", *options)
    run("precompute", coco, "-o", tmp_path / "c.h5", *options, "--limit", 5, "--overwrite")
    assert sorted(path.name for path in tmp_path.glob("*.h5")) == ["c-00000.h5", "c.h5"]


def test_an_index_that_does_not_fit_its_shards_is_written_again(
    coco: Path, tmp_path: Path, run: Any, options: Options
) -> None:
    run("precompute", coco, "-o", tmp_path / "c.h5", *options)
    before = Cache.open(tmp_path / "c.h5")
    with h5py.File(tmp_path / "c.h5", "r+") as file:
        file["shards/content/byte"][64:128] = ord(
            "0"
        )  # as after a kill between a shard that was made again and the index
    assert run("inspect", tmp_path / "c.h5").status == 2
    assert run("precompute", coco, "-o", tmp_path / "c.h5", *options).status == 0
    assert Cache.open(tmp_path / "c.h5") == before


def test_a_damaged_index_is_replaced_only_with_overwrite(
    coco: Path, tmp_path: Path, run: Any, options: Options
) -> None:
    run("precompute", coco, "-o", tmp_path / "c.h5", *options)
    cut = (tmp_path / "c.h5").read_bytes()[:2000]
    (tmp_path / "c.h5").write_bytes(cut)
    result = run("precompute", coco, "-o", tmp_path / "c.h5", *options)
    assert result.status == 2
    assert "--overwrite" in result.err
    assert (tmp_path / "c.h5").read_bytes() == cut
    assert run("precompute", coco, "-o", tmp_path / "c.h5", *options, "--overwrite").status == 0
    assert Cache.open(tmp_path / "c.h5").images == 17


def test_an_image_that_was_fixed_is_in_the_cache_after_the_next_run(
    coco: Path, tmp_path: Path, run: Any, options: Options
) -> None:
    run("precompute", coco, "-o", tmp_path / "undisturbed.h5", *options)
    images = sorted((coco / "train2017").iterdir())[:9]
    whole = {path: path.read_bytes() for path in images}
    for path in images:
        break_image(path, "text")
    assert run("precompute", coco, "-o", tmp_path / "c.h5", *options).status == 2  # more than half
    for path, data in whole.items():
        path.write_bytes(data)
    result = run("precompute", coco, "-o", tmp_path / "c.h5", *options)
    assert result.status == 0
    assert "7 to be read now" in result.err
    assert contents(tmp_path / "c.h5") == contents(tmp_path / "undisturbed.h5")


def test_strict_refuses_a_finished_cache_with_failures(coco: Path, tmp_path: Path, run: Any, options: Options) -> None:
    break_image(coco / "train2017/000000000104.jpg", "text")
    run("precompute", coco, "-o", tmp_path / "c.h5", *options)
    result = run("precompute", coco, "-o", tmp_path / "c.h5", *options)
    assert result.status == 0
    assert "without 1 image" in result.err
    result = run("precompute", coco, "-o", tmp_path / "c.h5", *options, "--strict")
    assert result.status == 2
    assert "train2017/000000000104.jpg" in result.err


def test_images_with_broken_metadata_or_extreme_shapes_are_skipped(
    coco: Path, tmp_path: Path, run: Any, options: Options
) -> None:
    exif = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x02\0\x04\0\0\0abc\0\0\0\0\0"  # an orientation that is text
    Image.new("RGB", (40, 40)).save(coco / "train2017/000000000103.jpg", exif=exif)
    Image.new("L", (1, 60_000)).save(coco / "train2017/000000000105.jpg", format="PNG")
    result = run("precompute", coco, "-o", tmp_path / "c.h5", *options)
    assert result.status == 0, result.err
    assert "1 x 60,000 pixels" in result.err
    assert "train2017/000000000105.jpg" in result.err


@pytest.mark.parametrize("name", ["c.h5", "c-00001.h5"])
def test_a_file_of_another_program_is_never_overwritten(
    coco: Path, tmp_path: Path, run: Any, options: Options, name: str
) -> None:
    with h5py.File(tmp_path / name, "w") as file:
        file["thesis"] = [1, 2, 3]
    before = (tmp_path / name).read_bytes()
    result = run("precompute", coco, "-o", tmp_path / "c.h5", *options, "--overwrite")
    assert result.status == 2
    assert name in result.err
    assert (tmp_path / name).read_bytes() == before


def test_images_that_cannot_be_read_are_skipped_recorded_and_summed_up(
    coco: Path, tmp_path: Path, run: Any, options: Options
) -> None:
    clean = run("precompute", coco, "-o", tmp_path / "clean.h5", *options)
    assert clean.status == 0
    images = sorted((coco / "train2017").iterdir())
    break_image(images[0], "truncated")
    break_image(images[3], "text")
    break_image(images[8], "empty")
    images[10].unlink()
    result = run("precompute", coco, "-o", tmp_path / "c.h5", *options)
    assert result.status == 0
    warnings = [line for line in result.err.splitlines() if " skipped: " in line]
    assert warnings[0] == (
        "warning: 2 images skipped: not an image of a known format (such as train2017/000000000104.jpg)"
    )
    assert [("000101" in line, "000111" in line) for line in warnings[1:]] == [(True, False), (False, True)]
    assert "4 skipped images" in result.err
    shards = all_tables(tmp_path / "c.h5")
    assert [shard.failure_path for shard in shards] == [
        ["train2017/000000000101.jpg", "train2017/000000000104.jpg"],
        ["train2017/000000000109.jpg", "train2017/000000000111.jpg"],
        [],
    ]
    assert shards[1].failure_reason == ["not an image of a known format", "there is no such file"]
    # The other images have the rows that they had.
    rows = {i: row for s in all_tables(tmp_path / "clean.h5") for i, row in zip(s.id, s.embedding, strict=True)}
    left = [(i, row) for shard in shards for i, row in zip(shard.id, shard.embedding, strict=True)]
    assert len(left) == 13
    for identifier, row in left:
        np.testing.assert_allclose(row.astype(float), rows[identifier].astype(float), rtol=2e-3, atol=2e-3)
    inspected = json.loads(run("inspect", tmp_path / "c.h5", "--json").out)
    assert len(inspected["failures"]) == 4


def test_strict_stops_at_the_first_image_that_cannot_be_read(
    coco: Path, tmp_path: Path, run: Any, options: Options
) -> None:
    break_image(sorted((coco / "train2017").iterdir())[8], "text")
    result = run("precompute", coco, "-o", tmp_path / "c.h5", *options, "--strict")
    assert result.status == 2
    assert "train2017/000000000109.jpg" in result.err
    assert "--strict" in result.err
    assert sorted(path.name for path in tmp_path.glob("*.h5")) == ["c-00000.h5"]  # the shard before it stays
    again = run("precompute", coco, "-o", tmp_path / "c.h5", *options)
    assert again.status == 0
    assert "continuing: 1 of 3 shards (7 of 17 images) exist" in again.err
    result = run("precompute", coco, "-o", tmp_path / "c.h5", *options, "--strict", "--overwrite")
    assert result.status == 2


def test_more_than_half_failing_is_an_error_with_the_most_frequent_reason(
    coco: Path, tmp_path: Path, run: Any, options: Options
) -> None:
    for path in sorted((coco / "train2017").iterdir())[:9]:
        break_image(path, "text")
    result = run("precompute", coco, "-o", tmp_path / "c.h5", *options)
    assert result.status == 2
    assert "9 of 17 images" in result.err
    assert "not an image of a known format" in result.err.splitlines()[-1]
    assert not (tmp_path / "c.h5").exists()


def test_half_failing_is_no_error(coco: Path, tmp_path: Path, run: Any, options: Options) -> None:
    for path in sorted((coco / "train2017").iterdir())[:8]:
        break_image(path, "text")
    assert run("precompute", coco, "-o", tmp_path / "c.h5", *options).status == 0
    assert Cache.open(tmp_path / "c.h5").images == 9


def test_more_than_half_missing_is_an_error_before_a_model_is_loaded(
    coco: Path, tmp_path: Path, run: Any, options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in sorted((coco / "train2017").iterdir())[:9]:
        path.unlink()
    monkeypatch.setattr(open_clip, "create_model", lambda *_, **__: pytest.fail("the encoder was loaded"))
    result = run("precompute", coco, "-o", tmp_path / "c.h5", *options)
    assert result.status == 2
    assert "9 of 17 listed images do not exist (such as train2017/000000000101.jpg)" in result.err
    assert "the 8 that exist with --skip-missing" in result.err


def test_skip_missing_uses_the_images_that_exist(coco: Path, tmp_path: Path, run: Any, options: Options) -> None:
    for path in sorted((coco / "train2017").iterdir())[:9]:
        path.unlink()
    assert run("precompute", coco, "-o", tmp_path / "c.h5", *options, "--skip-missing").status == 0
    assert Cache.open(tmp_path / "c.h5").images == 8
    assert run("precompute", coco, "-o", tmp_path / "d.h5", *options, "--limit", 8).status == 0
    assert Cache.open(tmp_path / "d.h5").images == 8


@pytest.mark.slow
def test_weights_of_another_architecture_are_an_error(
    coco: Path, tmp_path: Path, run: Any, clip_folder: Path, tokenizer_folder: Path
) -> None:
    weights = clip_folder / "open_clip_model.safetensors"
    options = ["--encoder", "ViT-B-32", "--pretrained", weights, "--tokenizer", tokenizer_folder]
    result = run("precompute", coco, "-o", tmp_path / "c.h5", *options)
    assert result.status == 2
    assert str(weights) in result.err
    assert "ViT-B-32" in result.err.splitlines()[-1]


def test_an_image_whose_embedding_is_not_finite_is_skipped(
    coco: Path, tmp_path: Path, run: Any, options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = Encoder.start

    def overflowing(self: Encoder, pixels: torch.Tensor) -> torch.Tensor:
        embedding = start(self, pixels).clone()
        if len(embedding) == 4:
            embedding[1, 3], embedding[2, 0] = float("nan"), float("-inf")
        return embedding

    monkeypatch.setattr(Encoder, "start", overflowing)
    assert run("precompute", coco, "-o", tmp_path / "c.h5", *options).status == 0
    first = read_shard(tmp_path / "c-00000.h5")
    assert first.failure_path == ["train2017/000000000102.jpg", "train2017/000000000103.jpg"]
    assert set(first.failure_reason) == {"its embedding is not finite, or beyond 4.3e9, as computed in fp32"}
    assert first.id[:2] == ["101", "104"]
    assert np.isfinite(first.embedding).all()
    assert run("precompute", coco, "-o", tmp_path / "c.h5", *options).err.count("finished already") == 1


def test_embeddings_beyond_float16_are_stored_with_the_least_scale_of_their_shard(
    coco: Path, tmp_path: Path, run: Any, options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = Encoder.start
    made: list[torch.Tensor] = []

    def large(self: Encoder, pixels: torch.Tensor) -> torch.Tensor:
        embedding = start(self, pixels) * (300_000 if len(made) == 1 else 1)  # the second batch; the first is black
        made.append(embedding)
        return embedding

    monkeypatch.setattr(Encoder, "start", large)
    result = run("precompute", coco, "-o", tmp_path / "c.h5", *options, "--shard-size", 8)
    assert (result.status, "skipped" in result.err) == (0, False), result.err
    tables = all_tables(tmp_path / "c.h5")
    truth = torch.cat(made[1:]).numpy()
    largest = np.abs(truth).max()
    assert [shard.scale for shard in tables] == [2 ** np.ceil(np.log2(largest / 65504)), 1, 1]
    assert tables[0].scale > 1
    np.testing.assert_allclose(np.concatenate([shard.values() for shard in tables]), truth, rtol=2**-11, atol=1e-5)
    assert np.array_equal(tables[1].embedding, truth[8:16].astype(np.float16))


def test_an_image_that_failed_before_shards_had_a_scale_is_tried_again(
    coco: Path, tmp_path: Path, run: Any, options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = Encoder.start

    def overflowing(self: Encoder, pixels: torch.Tensor) -> torch.Tensor:
        embedding = start(self, pixels).clone()
        if len(embedding) == 4:
            embedding[1] = float("inf")
        return embedding

    with monkeypatch.context() as patch:
        patch.setattr(Encoder, "start", overflowing)
        patch.setattr(pipeline, "NOT_FINITE", "its embedding is not finite in float16 (computed in")
        assert run("precompute", coco, "-o", tmp_path / "c.h5", *options).status == 0
    assert [shard.failure_path for shard in all_tables(tmp_path / "c.h5")].count([]) == 1
    result = run("precompute", coco, "-o", tmp_path / "c.h5", *options)
    assert "2 images to encode, 15 known" in result.err
    assert [shard.failure_path for shard in all_tables(tmp_path / "c.h5")] == [[], [], []]


def test_a_batch_that_does_not_fit_into_memory_is_encoded_in_halves(
    coco: Path, tmp_path: Path, run: Any, options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("precompute", coco, "-o", tmp_path / "a.h5", *options)
    start = Encoder.start

    def small(self: Encoder, pixels: torch.Tensor) -> torch.Tensor:
        if len(pixels) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return start(self, pixels)

    monkeypatch.setattr(Encoder, "start", small)
    result = run("precompute", coco, "-o", tmp_path / "b.h5", *options)
    assert result.status == 0
    assert "a batch of 4 images" in result.err
    for a, b in zip(all_tables(tmp_path / "a.h5"), all_tables(tmp_path / "b.h5"), strict=True):
        cosine = torch.cosine_similarity(torch.from_numpy(a.embedding).float(), torch.from_numpy(b.embedding).float())
        assert cosine.min() > 0.9999


def test_images_of_other_modes_and_orientation_are_decoded(
    coco: Path, tmp_path: Path, run: Any, options: Options
) -> None:
    images = sorted((coco / "val2017").iterdir())
    upright = Image.open(images[0])
    upright.load()
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned by 90 degrees
    upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.png", exif=exif)
    for path, mode in zip(images[1:4], ("L", "P", "CMYK"), strict=True):
        with Image.open(path) as image:
            image.convert(mode).save(path, format="TIFF" if mode == "CMYK" else "PNG")
    run("precompute", coco, "-o", tmp_path / "a.h5", *options)
    assert all(not shard.failure_path for shard in all_tables(tmp_path / "a.h5"))
    upright.save(images[0], format="PNG")
    run("precompute", coco, "-o", tmp_path / "upright.h5", *options)
    images[0].write_bytes((tmp_path / "turned.png").read_bytes())
    run("precompute", coco, "-o", tmp_path / "turned.h5", *options)
    for one, other in zip(all_tables(tmp_path / "upright.h5"), all_tables(tmp_path / "turned.h5"), strict=True):
        np.testing.assert_array_equal(one.embedding, other.embedding)


def test_dry_run_prints_what_was_understood_and_writes_nothing(
    coco: Path, tmp_path: Path, run: Any, options: Options
) -> None:
    (coco / "val2017/extra.jpg").write_bytes(b"")
    (coco / "train2017/000000000104.jpg").unlink()
    result = run("precompute", coco, "-o", tmp_path / "c.h5", *options, "--dry-run")
    assert result.status == 0
    assert result.out.splitlines() == [
        "coco, 17 images (12 train, 5 val), 48 captions",
        "listed but missing: 1 image (such as train2017/000000000104.jpg)",
        "not listed, left out: 1 image (such as val2017/extra.jpg)",
        "train2017/000000000101.jpg [train] 'A red square on a white table.'",
        "train2017/000000000102.jpg [train] 'Two blue circles next to a green triangle!'",
        "train2017/000000000103.jpg [train] 'a small dog runs over the wet grass'",
    ]
    assert not list(tmp_path.glob("*.h5"))


def test_a_dataset_without_val_gets_one_drawn_by_the_seed(
    coco: Path, tmp_path: Path, run: Any, options: Options
) -> None:
    (coco / "annotations/captions_val2017.json").unlink()
    run("precompute", coco, "-o", tmp_path / "a.h5", *options, "--val-fraction", 0.3, "--seed", 1)
    run("precompute", coco, "-o", tmp_path / "b.h5", *options, "--val-fraction", 0.3, "--seed", 2)
    splits = {}
    for name in ("a", "b"):
        splits[name] = {
            i: s for t in all_tables(tmp_path / f"{name}.h5") for i, s in zip(t.id, t.split.tolist(), strict=True)
        }
        assert set(splits[name].values()) == {0, 1}
    assert splits["a"] != splits["b"]
    assert Cache.open(tmp_path / "a.h5").fingerprint.split_seed == 1


def test_a_missing_or_broken_shard_is_made_again_and_the_rest_is_kept(
    coco: Path, tmp_path: Path, run: Any, options: Options
) -> None:
    run("precompute", coco, "-o", tmp_path / "c.h5", *options)
    before = contents(tmp_path / "c.h5")
    kept = (tmp_path / "c-00000.h5").stat().st_mtime_ns
    (tmp_path / "c-00001.h5").write_bytes((tmp_path / "c-00001.h5").read_bytes()[:3000])
    (tmp_path / "c-00002.h5").unlink()
    (tmp_path / "c.h5").unlink()
    result = run("precompute", coco, "-o", tmp_path / "c.h5", *options)
    assert result.status == 0
    assert "c-00001.h5 is rebuilt" in result.err
    assert contents(tmp_path / "c.h5") == before
    assert (tmp_path / "c-00000.h5").stat().st_mtime_ns == kept


def test_repair_makes_only_the_shards_again_whose_checksum_is_wrong(
    coco: Path, tmp_path: Path, run: Any, options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["precompute", coco, "-o", tmp_path / "c.h5", *options]
    run(*command)
    before = contents(tmp_path / "c.h5")
    with h5py.File(tmp_path / "c-00001.h5", "r+") as file:
        file["captions/token"][0] += 1
    kept = [(tmp_path / f"c-0000{number}.h5").stat().st_mtime_ns for number in (0, 2)]
    assert "finished already" in run(*command).err  # opening does not read the tables
    encoded: list[int] = []
    start = Encoder.start

    def counted(self: Encoder, pixels: torch.Tensor) -> torch.Tensor:
        encoded.append(len(pixels))
        return start(self, pixels)

    monkeypatch.setattr(Encoder, "start", counted)
    result = run(*command, "--repair")
    assert result.status == 0
    assert "c-00001.h5 is made again" in result.err
    assert encoded == [1, 4, 3]  # the black image, and the 7 of the shard
    assert contents(tmp_path / "c.h5") == before
    assert len(list(Cache.open(tmp_path / "c.h5").verify())) == 3
    assert [(tmp_path / f"c-0000{number}.h5").stat().st_mtime_ns for number in (0, 2)] == kept
    (tmp_path / "c.h5").write_bytes((tmp_path / "c.h5").read_bytes()[:900])
    assert run(*command, "--repair").status == 0
    assert contents(tmp_path / "c.h5") == before
    assert "finished already" in run(*command, "--repair").err


@pytest.mark.parametrize(
    ("arguments", "value"),
    [
        (lambda c, t: [c / "nowhere"], "nowhere"),
        (lambda c, t: [c / "annotations"], "to fix this, give one of them, such as "),
        (lambda c, t: [c, "--format", "cocoa"], "--format cocoa"),
        (lambda c, t: [c, "--image-column", "file"], "columns"),
        (lambda c, t: [c, "--captions", c], "--captions"),
        (lambda c, t: [c, "-o", t / "cache.txt"], "cache.txt"),
        (lambda c, t: [c, "-o", t], "--output"),
        (lambda c, t: [c, "-o", os.fsdecode(os.fsencode(t) + b"/caf\xe9.h5")], "UTF-8"),
        (lambda c, t: [c, "--encoder", "hf-hub:a/b", "--pretrained", "x"], "hf-hub:a/b"),
        (lambda c, t: [c, "--encoder", "ViT-B-33"], "ViT-B-33"),
        (lambda c, t: [c, "--encoder", "ViT-B-32", "--pretrained", "opneai"], "opneai"),
        (lambda c, t: [c, "--encoder", "ViT-B-32", "--pretrained", c / "annotations/captions_val2017.json"],
         "captions_val2017.json"),
        (lambda c, t: [c, "--encoder", c], "open_clip_config.json"),
        (lambda c, t: [c, "--features", "smells"], "--features smells is not known; use projected, pooled, patches"),
        (lambda c, t: [c, "--precision", "fp8"], "--precision fp8"),
        (lambda c, t: [c, "--device", "toaster"], "toaster"),
        (lambda c, t: [c, "--tokenizer", c], "tokenizer.json"),
        (lambda c, t: [c, "--tokenizer", t / "nowhere"], "nowhere"),
        (lambda c, t: [c, "--shard-size", 0], "--shard-size"),
    ],
)  # fmt: skip
def test_errors_are_one_line_and_write_nothing(
    coco: Path,
    tmp_path: Path,
    run: Any,
    options: Options,
    arguments: Callable[[Path, Path], list[object]],
    value: str,
) -> None:
    result = run("precompute", "-o", tmp_path / "c.h5", *options, *arguments(coco, tmp_path))
    assert result.status == 2
    assert result.out == ""
    assert value in result.err.splitlines()[-1]
    assert "Traceback" not in result.err
    assert not list(tmp_path.glob("*.h5"))


def test_python_makes_the_same_cache_as_the_command(
    coco: Path, tmp_path: Path, run: Any, options: Options, clip_folder: Path, tokenizer_folder: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    break_image(coco / "val2017/000000000115.jpg", "text")
    run("precompute", coco, "-o", tmp_path / "a.h5", *options)
    settings = PrecomputeSettings(
        encoder=str(clip_folder),
        tokenizer=str(tokenizer_folder),
        batch_size=4,
        workers=0,
        device="cpu",
        shard_size=7,
        precision="fp32",
    )
    result = precompute(coco, str(tmp_path / "b.h5"), settings)
    assert contents(result.path) == contents(tmp_path / "a.h5")
    assert (result.images, result.captions, result.shards, result.embedding_shape) == (16, 45, 3, (16,))
    assert result.failures == [("val2017/000000000115.jpg", "not an image of a known format")]
    assert not result.was_finished
    again = precompute(coco, tmp_path / "b.h5", settings)
    assert again == replace(result, was_finished=True)
    assert capfd.readouterr() == ("", "")


def test_understand_applies_splits_and_limit_without_opening_images(coco: Path) -> None:
    source = understand(coco, PrecomputeSettings(limit=5, seed=3))
    assert source.counts() == {"train": 4, "val": 1}
    assert understand(coco, PrecomputeSettings(limit=5, seed=3)) == source
    assert understand(coco, PrecomputeSettings(limit=5, seed=4)).records != source.records


def test_skip_missing_keeps_all_other_records_in_order(coco: Path) -> None:
    before = understand(coco)
    gone = sorted((coco / "train2017").iterdir())[::2]
    for path in gone:
        path.unlink()
    source = understand(coco, PrecomputeSettings(skip_missing=True))
    names = {f"train2017/{path.name}" for path in gone}
    assert source.records == [record for record in before.records if record.path not in names]
    assert source.missing == []
    assert "6 listed images" in source.notes[-1]


@pytest.mark.parametrize("spelling", ["--image-column", "--picture-column"])
def test_the_column_of_images_has_two_spellings(coco: Path, run: Any, spelling: str) -> None:
    (coco / "t.csv").write_text("caption,shown\na dog,train2017/000000000101.jpg\n")
    result = run("precompute", coco / "t.csv", "--dry-run", spelling, "shown")
    assert result.out.splitlines()[-1] == "train2017/000000000101.jpg [train] 'a dog'"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], ("RN50x4", "openai")),
        (["--encoder", "demo"], ("demo", None)),
        (["--encoder", "RN50", "--pretrained", "cc12m"], ("RN50", "cc12m")),
        (["--pretrained", "w.pt"], ("RN50x4", "w.pt")),
    ],
)
def test_weights_of_a_preset_are_used_only_with_its_encoder(
    coco: Path, run: Any, monkeypatch: pytest.MonkeyPatch, arguments: list[str], expected: tuple[str, str | None]
) -> None:
    seen: list[PrecomputeSettings] = []

    def catch(source: Path, settings: PrecomputeSettings) -> Any:
        seen.append(settings)
        return understand(source, settings)

    monkeypatch.setattr("clipcap.precompute.dataset.understand", catch)
    assert run("precompute", coco, "--dry-run", "--preset", "clipcap-transformer", *arguments).status == 0
    assert (seen[0].encoder, seen[0].pretrained) == expected


def test_features_depend_on_the_format_unless_they_are_given() -> None:
    assert PrecomputeSettings().features_for("coco") == "projected"
    assert PrecomputeSettings().features_for("clipxgpt-pickle") == "pooled"
    assert PrecomputeSettings(features="projected").features_for("clipxgpt-pickle") == "projected"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("format", "cocoa"), ("features", "smells"), ("precision", "fp8"), ("val_fraction", 1.0), ("limit", 0)),
        *(("batch_size", 0), ("workers", -1), ("shard_size", 0), ("views", None)),
    ],
)
def test_a_setting_that_is_not_allowed_is_an_error_that_names_it(name: str, value: object) -> None:
    with pytest.raises(UsageError, match=f"`{name}`"):
        PrecomputeSettings(**{name: value})  # type: ignore[arg-type]
