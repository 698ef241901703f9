"""`--views`: random crops and flips of training images in the cache, which training takes in turn."""

import re
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from PIL import Image
from runs import assert_same_run, interrupt_at_step

from clipcap.data.cache.index import Cache
from clipcap.data.cache.shard import ShardTables
from clipcap.data.errors import DamagedCacheError
from clipcap.precompute.encoders.load import load_encoder
from clipcap.precompute.images import open_image
from clipcap.precompute.views import random_view
from clipcap.train.corpus import embeddings
from clipcap.train.corpus.captions import load_corpora
from clipcap.train.corpus.embeddings import ResidentEmbeddings, StreamedEmbeddings
from small_world import small_models

VIEWS = 2


def make(run: Any, coco: Path, index: Path, clip_folder: Path, tokenizer_folder: Path, *options: object) -> Cache:
    fixed = ["--shard-size", 10]
    result = run("precompute", coco, "-o", index, *small_models(clip_folder, tokenizer_folder), *fixed, *options)
    assert result.status == 0, result.err
    return Cache.open(index)


@pytest.fixture
def viewed(run: Any, coco: Path, tmp_path: Path, clip_folder: Path, tokenizer_folder: Path) -> Cache:
    return make(run, coco, tmp_path / "viewed.h5", clip_folder, tokenizer_folder, "--views", VIEWS)


def views_of(tables: ShardTables, image: int) -> Any:
    assert tables.view is not None
    assert tables.first_view is not None
    return tables.view[tables.first_view[image] : tables.first_view[image + 1]]


def test_training_images_have_views_and_everything_else_is_as_without(
    run: Any, coco: Path, tmp_path: Path, clip_folder: Path, tokenizer_folder: Path, viewed: Cache
) -> None:
    plain = make(run, coco, tmp_path / "plain.h5", clip_folder, tokenizer_folder)
    assert (viewed.fingerprint.views, plain.fingerprint.views) == (VIEWS, 0)
    assert [viewed.views_of(split) for split in ("train", "val", "test")] == [VIEWS, 0, 0]
    encoder = load_encoder(str(clip_folder), device=torch.device("cpu"))
    height, width = encoder.preprocess["size"]
    seen = 0
    for with_views, without in zip(viewed.tables(), plain.tables(), strict=True):
        assert without.view is None
        assert with_views.path == without.path
        np.testing.assert_allclose(with_views.embedding, without.embedding, atol=2e-3)
        for row, path in enumerate(with_views.path):
            found = views_of(with_views, row)
            assert len(found) == (VIEWS if with_views.split[row] == 0 else 0)
            for number, embedding in enumerate(found):
                pixels = random_view(open_image(coco / path), (height, width), Path(path).name, number)
                np.testing.assert_allclose(embedding, encoder.encode(pixels[None])[0].numpy(), atol=2e-3)
                assert np.abs(embedding - with_views.embedding[row]).max() > 2e-2
                seen += 1
    assert seen == 12 * VIEWS
    assert sum(1 for _ in viewed.verify()) == len(viewed.shards)


def test_an_image_that_cannot_be_read_leaves_the_views_of_others_in_their_places(
    run: Any, coco: Path, tmp_path: Path, clip_folder: Path, tokenizer_folder: Path, viewed: Cache
) -> None:
    expected = {path: views_of(t, row) for t in viewed.tables() for row, path in enumerate(t.path)}
    broken = sorted((coco / "train2017").glob("*.jpg"))[2]
    broken.write_bytes(b"no image")
    cache = make(run, coco, tmp_path / "broken.h5", clip_folder, tokenizer_folder, "--views", VIEWS)
    found = {path: views_of(t, row) for t in cache.tables() for row, path in enumerate(t.path)}
    assert set(expected) - set(found) == {f"train2017/{broken.name}"}
    for path, views in found.items():
        np.testing.assert_allclose(views, expected[path], atol=2e-3)


def test_views_are_the_same_in_every_run_and_stay_when_the_tokens_change(
    run: Any, coco: Path, tmp_path: Path, clip_folder: Path, tokenizer_folder: Path, viewed: Cache
) -> None:
    again = make(run, coco, tmp_path / "again.h5", clip_folder, tokenizer_folder, "--views", VIEWS)
    assert [shard.content for shard in again.shards] == [shard.content for shard in viewed.shards]
    result = run("precompute", coco, "-o", again.path, "--tokenizer", "new:280", "--retokenize")
    assert result.status == 0, result.err
    for one, other in zip(Cache.open(again.path).tables(), viewed.tables(), strict=True):
        for row in range(len(one.path)):
            assert views_of(one, row).tolist() == views_of(other, row).tolist()


@pytest.mark.parametrize("size", [(100, 100), (200, 100), (90, 120)])
def test_a_view_has_three_fifths_of_the_largest_square_or_more_and_is_flipped_half_the_time(
    size: tuple[int, int],
) -> None:
    columns, rows = np.meshgrid(np.arange(size[0]), np.arange(size[1]))
    image = Image.fromarray(np.stack([columns, rows, rows], axis=-1).astype(np.uint8))
    shares, centres, flips = [], [], 0
    for number in range(100):
        pixels = random_view(image, (64, 64), "a.jpg", number).numpy().astype(float)
        left, right = pixels[:, 0, 0].mean(), pixels[:, -1, 0].mean()
        height = pixels[-1, :, 1].mean() - pixels[0, :, 1].mean()
        assert height > 0
        shares.append(abs(right - left) * height / min(size) ** 2)
        centres.append((left + right) / 2 / size[0])
        flips += right < left
    assert 0.5 < min(shares) < 0.7
    assert 0.85 < max(shares) < 1.01
    assert max(centres) - min(centres) > 0.1
    assert 30 <= flips <= 70


def test_an_epoch_takes_one_picture_of_each_image_resident_or_streamed(
    viewed: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embeddings, "BLOCK_BYTES", 2 * 2 * 3 * viewed.fingerprint.width)  # two images in a block
    resident, streamed = (load_corpora(viewed, 20, stream=stream)["train"].embedding for stream in (False, True))
    assert isinstance(resident, ResidentEmbeddings)
    assert isinstance(streamed, StreamedEmbeddings)
    assert streamed.block_images == 2
    images = np.random.default_rng(0).permutation(np.repeat(np.arange(12), 2))
    pictures = [
        np.concatenate([tables.embedding[row : row + 1], views_of(tables, row)])
        for tables in viewed.tables()
        for row in np.flatnonzero(tables.split == 0).tolist()
    ]
    assert resident[images].tolist() == np.stack(pictures)[images, 0].tolist()  # whole images before the first draw
    drawn = []
    for epoch in range(8):
        resident.draw(3, epoch)
        streamed.draw(3, epoch)
        found = resident[images]
        assert torch.equal(found, streamed[images])
        equal = (np.stack(pictures)[images] == found.numpy()[:, None]).all(axis=-1)
        assert (equal.sum(axis=1) == 1).all()
        drawn.append(equal.argmax(axis=1))
    assert (np.bincount(np.concatenate(drawn)) > 30).all()  # of 192, each of the three pictures has its share
    assert len({tuple(pick) for pick in drawn}) == 8
    for embedding in (resident, streamed):
        embedding.draw(3, 0)
        assert (np.stack(pictures)[images, drawn[0]] == embedding[images].numpy()).all()


def test_training_from_a_cache_with_views_resumes_to_the_same_weights(
    run: Any, tmp_path: Path, viewed: Cache, lm_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["train", viewed.path, "--lm", lm_folder, "--epochs", 3, "--batch-size", 9]
    command += ["--device", "cpu", "--precision", "fp32"]
    assert run(*command, "-o", tmp_path / "undisturbed").status == 0
    with monkeypatch.context() as patch:
        interrupt_at_step(patch, 6)
        assert run(*command, "-o", tmp_path / "run").status == 130
    assert run(*command, "-o", tmp_path / "run", "--resume").status == 0
    assert_same_run(tmp_path / "undisturbed", tmp_path / "run")
    assert re.search(rf"views\W+{VIEWS}\b", run("inspect", viewed.path).out)


def test_views_that_are_missing_are_a_damaged_cache(viewed: Cache) -> None:
    with h5py.File(viewed.shards[1].path, "r+") as file:
        first = file["images/first_view"][:]
        file["images/first_view"][:] = np.minimum(first, first[-1] - 1)  # the last image with views lacks one
        rows = file["images/view"][:-1]
        del file["images/view"]
        file["images/view"] = rows
    with pytest.raises(DamagedCacheError, match="other views"):
        load_corpora(viewed, 20)["train"].embedding[np.array([11])]


def test_embeddings_without_images_have_no_views(run: Any, tmp_path: Path) -> None:
    np.savez(tmp_path / "rows.npz", embedding=np.ones((2, 3), np.float32), image=np.array(["a.jpg", "b.jpg"]))
    result = run("precompute", tmp_path / "rows.npz", "-o", tmp_path / "cache.h5", "--views", 1)
    assert result.status == 2
    assert "--views 1" in result.err
