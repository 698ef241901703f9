"""Resident and streamed embeddings give the same rows, whichever are accessed, in any order."""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from clipcap.data.cache.index import Cache, write_index
from clipcap.data.cache.scale import magnitudes, scale_of, to_float16
from clipcap.data.cache.shard import write_shard
from clipcap.data.errors import CacheError
from clipcap.train.corpus import embeddings as module
from clipcap.train.corpus.captions import load_corpora
from clipcap.train.corpus.embeddings import ResidentEmbeddings, StoredEmbeddings, StreamedEmbeddings

CPU = torch.device("cpu")


@pytest.fixture
def stored(small_cache: Path) -> StoredEmbeddings:
    """Every second image of a cache of two shards."""
    cache = Cache.open(small_cache)
    assert len(cache.shards) == 2
    shards = [(shard.path, np.arange(0, shard.images, 2)) for shard in cache.shards]
    return StoredEmbeddings(shards, cache.embedding_shape)


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch, stored: StoredEmbeddings) -> Iterator[list[Any]]:
    """Blocks of two images, three in memory; gives the blocks that were read."""
    monkeypatch.setattr(module, "BLOCK_BYTES", 2 * 2 * stored.shape[0])
    monkeypatch.setattr(module, "BLOCKS", 3)
    monkeypatch.setattr(module, "POOL_BLOCKS", 2)
    reads: list[Any] = []
    read = StoredEmbeddings.read

    def recorded_read(self: StoredEmbeddings, first: int, last: int) -> Any:
        reads.append((first, last))
        return read(self, first, last)

    monkeypatch.setattr(StoredEmbeddings, "read", recorded_read)
    yield reads


def test_stored_rows_are_read(stored: StoredEmbeddings, small_cache: Path) -> None:
    rows = np.concatenate([tables.embedding[::2] for tables in Cache.open(small_cache).tables()])
    assert len(stored) == len(rows) == 9
    for first in range(9):
        for last in range(first, 10):
            assert np.array_equal(stored.read(first, last)[:, 0], rows[first:last])
    images = np.array([3, 3, 0, 8])
    assert ResidentEmbeddings(stored, CPU)[images].tolist() == rows[images].tolist()


def test_streamed_rows_equal_resident_rows(stored: StoredEmbeddings, small_blocks: list[Any]) -> None:
    resident, streamed = ResidentEmbeddings(stored, CPU), StreamedEmbeddings(stored, CPU)
    assert streamed.block_images == 2
    assert len(streamed) == len(resident) == 9
    random = np.random.default_rng(0)
    for expected in (True, False):
        images = random.integers(0, 9, 300)
        if expected:
            streamed.expect(images)
        for start in range(0, 300, 10):  # more blocks in a batch than there are in memory
            batch = images[start : start + 10]
            assert torch.equal(streamed[batch], resident[batch])


def test_an_announced_epoch_reads_every_block_once_and_ahead(stored: StoredEmbeddings, small_blocks: list[Any]) -> None:
    streamed = StreamedEmbeddings(stored, CPU)
    images = np.array([5, 4, 5, 8, 1, 0, 1, 7, 6, 3, 2])
    streamed.expect(images)
    for image in images:
        streamed[np.array([image])]
    assert small_blocks == [(4, 6), (8, 9), (0, 2), (6, 8), (2, 4)]
    del small_blocks[:]
    streamed.expect(np.array([2, 0, 4]))  # the next epoch: blocks in memory are not read again
    for image in (2, 0, 4):
        streamed[np.array([image])]
    assert small_blocks == [(4, 6)]


def test_a_missing_shard_is_a_cache_error(stored: StoredEmbeddings, small_blocks: list[Any], tmp_path: Path) -> None:
    gone = StoredEmbeddings([(tmp_path / "gone.h5", stored.shards[0][1])], stored.shape)
    streamed = StreamedEmbeddings(gone, CPU)
    streamed.expect(np.arange(4))
    with pytest.raises(CacheError, match=r"gone\.h5"):
        streamed[np.array([1])]


def test_a_streamed_corpus_makes_the_same_batches(small_cache: Path, small_blocks: list[Any]) -> None:
    resident, streamed = (load_corpora(Cache.open(small_cache), 60, stream=stream)["train"] for stream in (False, True))
    captions = np.random.default_rng(0).permutation(len(resident))
    one, other = resident.packed(captions, 4), streamed.packed(captions, 4)
    for name, value in vars(one).items():
        assert torch.equal(value, getattr(other, name)), name


def test_embeddings_of_another_dtype_or_shape_are_refused(small_cache: Path, tmp_path: Path) -> None:
    """Embeddings are read apart from the other tables, and are checked against the format too."""
    for file in small_cache.parent.glob("*.h5"):
        shutil.copy(file, tmp_path)
    cache = Cache.open(tmp_path / small_cache.name)
    with h5py.File(cache.shards[1].path, "r+") as shard:
        rows = shard["images/embedding"][:]
        del shard["images/embedding"]
        shard["images/embedding"] = rows[:, :7]
    with pytest.raises(CacheError, match="another shape"):
        load_corpora(cache, 60)["train"].packed(np.arange(33), 4)
    with h5py.File(cache.shards[1].path, "r+") as shard:
        del shard["images/embedding"]
        shard["images/embedding"] = rows.astype(np.float32)
    with pytest.raises(CacheError, match="embedding"):
        load_corpora(cache, 60)


@pytest.mark.parametrize("views", [0, 2])
def test_shards_of_different_scales_give_their_true_values_resident_and_streamed(
    small_cache: Path, small_blocks: list[Any], tmp_path: Path, views: int
) -> None:
    cache, truth = scaled_cache(small_cache, tmp_path, views)
    assert [tables.scale for tables in cache.tables()] == [16, 1]
    bounds: Any = {"rtol": 2.0**-11, "atol": 16 * 2.0**-25}  # the latter for numbers below 2^-14 times the scale
    for split in ("train", "val"):
        pictures = truth[split]
        images = np.random.default_rng(1).permutation(len(pictures))
        for stream in (False, True):
            embedding = load_corpora(cache, 60, stream=stream)[split].embedding
            assert isinstance(embedding, ResidentEmbeddings | StreamedEmbeddings)
            np.testing.assert_allclose(embedding[images].numpy(), pictures[images, 0], **bounds)
            embedding.draw(3, 1)
            drawn = np.random.default_rng([3, 1]).integers(pictures.shape[1], size=len(pictures))
            np.testing.assert_allclose(embedding[images].numpy(), pictures[images, drawn[images]], **bounds)
            assert embedding._stored.read(0, 1).dtype == np.float16


def test_a_shard_that_got_a_larger_scale_since_is_refused(small_cache: Path, tmp_path: Path) -> None:
    cache, _ = scaled_cache(small_cache, tmp_path, 0)
    shards = [(shard.path, np.arange(shard.images)) for shard in cache.shards]
    with pytest.raises(CacheError, match="another scale"):
        StoredEmbeddings(shards, cache.embedding_shape).read(0, 2)


def scaled_cache(small_cache: Path, folder: Path, views: int) -> tuple[Cache, dict[str, Any]]:
    """Copy a cache of two shards with other embeddings, of which those of the first are large.

    Returns:
        The copy, and for each split the embeddings of its images and then of their views, (n, 1 + V, d).
    """
    old = Cache.open(small_cache)
    fingerprint = replace(old.fingerprint, views=views)
    random = np.random.default_rng(0)
    truth: dict[str, list[Any]] = {"train": [], "val": []}
    entries = []
    for number, (shard, tables) in enumerate(zip(old.shards, old.tables(), strict=True)):
        rows = random.standard_normal((shard.images, 1 + views, fingerprint.width)).astype(np.float32)
        if number == 0:
            rows[1] *= 1e6 / np.abs(rows[1]).max()
        is_train = tables.split == 0
        truth["train"].append(rows[is_train])
        truth["val"].append(rows[~is_train][:, :1])
        scale = scale_of(magnitudes(rows))
        stored = to_float16(rows, scale)
        changed: dict[str, Any] = {"embedding": stored[:, 0], "scale": scale}
        if views:
            changed["view"] = stored[is_train, 1:].reshape(-1, fingerprint.width)
            changed["first_view"] = np.cumsum([0, *(views * is_train)])
        path = folder / shard.path.name
        content = write_shard(path, replace(tables, **changed), fingerprint.to_json(), number)
        entries.append(replace(shard, path=path, content=content))
    write_index(folder / "cache.h5", fingerprint, entries)
    return Cache.open(folder / "cache.h5"), {split: np.concatenate(parts) for split, parts in truth.items()}


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_row_that_is_not_finite_is_named_where_it_is_read(small_cache: Path, tmp_path: Path, value: float) -> None:
    for file in small_cache.parent.glob("*.h5"):
        shutil.copy(file, tmp_path)
    cache = Cache.open(tmp_path / small_cache.name)
    with h5py.File(cache.shards[1].path, "r+") as file:
        file["images/embedding"][3, 5] = value
    rows = [(s.path, np.arange(s.images)) for s in cache.shards]
    stored = StoredEmbeddings(rows, cache.embedding_shape, finite=True)
    for embedding in (ResidentEmbeddings(stored, CPU), StreamedEmbeddings(stored, CPU)):
        with pytest.raises(CacheError, match=r"cache-00001\.h5 has 1 embeddings that are not finite \(as row 3\)"):
            embedding[np.arange(len(stored))]
