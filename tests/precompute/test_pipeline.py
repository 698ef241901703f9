"""Loading and encoding overlap, in both of their forms, and make what one image after the other makes."""

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from clipcap.data.cache.index import Cache
from clipcap.data.errors import SourceError
from clipcap.data.image_store import FolderStore
from clipcap.precompute import pipeline
from clipcap.precompute.encoders.base import Encoder
from clipcap.precompute.encoders.load import load_encoder
from clipcap.precompute.failures import WINDOW, Failures
from clipcap.precompute.loading import Item, Loader
from clipcap.precompute.pipeline import embed, load_ahead
from clipcap.precompute.shards import store_tables
from small_world import make_coco, small_models


@pytest.fixture
def encoder(clip_folder: Path) -> Encoder:
    return load_encoder(str(clip_folder), device=torch.device("cpu"))


@pytest.fixture
def loader(tmp_path: Path, encoder: Encoder) -> Loader:
    """A loader of 40 images, of which every seventh is broken."""
    random = np.random.default_rng(0)
    for number in range(40):
        Image.fromarray(random.integers(0, 256, (40, 50 + number, 3), dtype=np.uint8)).save(tmp_path / f"{number}.png")
        if number % 7 == 3:
            (tmp_path / f"{number}.png").write_bytes(b"text")
    height, width = encoder.preprocess["size"]
    return Loader(FolderStore(tmp_path), encoder.transform, (height, width))


ITEMS = [Item(f"{number}.png", number % 3) for number in range(40)]
BATCHES = [
    ITEMS[:18],
    ITEMS[18:36],
    [ITEMS[3]],
    ITEMS[36:],
]  # 18 images are more than a piece; the third batch is broken


@pytest.mark.parametrize("workers", [0, 1, 3])
@pytest.mark.parametrize("way", [embed, load_ahead])
def test_both_ways_make_the_embeddings_of_single_images_in_order(
    loader: Loader, encoder: Encoder, way: Any, workers: int
) -> None:
    threads = torch.get_num_threads()
    found = list(way(BATCHES, loader, encoder, workers))
    assert torch.get_num_threads() == threads
    for batch, embedded in zip(BATCHES, found, strict=True):
        single = [next(embed([[item]], loader, encoder, 0)) for item in batch]
        assert embedded.outcomes == [one.outcomes[0] for one in single]
        expected = np.concatenate([one.rows for one in single])
        assert embedded.rows.dtype == np.float16
        assert embedded.rows.shape == expected.shape
        torch.testing.assert_close(torch.from_numpy(embedded.rows), torch.from_numpy(expected), rtol=2e-3, atol=1e-4)
    assert [len(embedded.rows) for embedded in found] == [30, 33, 0, 4]


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_an_embedding_that_is_not_finite_fails_with_the_limit_of_its_precision(
    loader: Loader, encoder: Encoder, monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    rows = torch.tensor([[1e6], [float("inf")], [3.0]])
    monkeypatch.setattr(encoder, "precision", precision)
    monkeypatch.setattr(encoder, "start", lambda pixels: rows)
    (found,) = embed([[Item(f"{number}.png", 0) for number in range(3)]], loader, encoder, 0)
    limit = {"fp32": "", "fp16": ", whose largest number is 65,504; bf16 and fp32 hold larger ones"}[precision]
    assert found.outcomes[1] == f"its embedding is not finite, or beyond 4.3e9, as computed in {precision}{limit}"
    assert [isinstance(one, str) for one in found.outcomes] == [False, True, False]
    assert (found.scale, found.rows.tolist()) == (16, [[62496], [0.1875]])


def test_on_a_cpu_every_thread_gets_its_share_of_the_cores(
    loader: Loader, encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "available_cores", lambda: 6)
    seen: list[int] = []
    start = Encoder.start

    def watched(self: Encoder, pixels: torch.Tensor) -> torch.Tensor:
        seen.append(torch.get_num_threads())
        return start(self, pixels)

    monkeypatch.setattr(Encoder, "start", watched)
    list(embed(BATCHES, loader, encoder, 2))
    assert set(seen) == {3}


def test_a_shard_is_encoded_while_the_last_one_is_written(
    tmp_path: Path, run: Any, clip_folder: Path, tokenizer_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first shard is written only once the second one is being encoded; without overlap, it never is."""
    make_coco(tmp_path / "coco")
    second = threading.Event()
    start, store, batches = Encoder.start, store_tables, 0

    def counted(self: Encoder, pixels: torch.Tensor) -> torch.Tensor:
        nonlocal batches
        batches += 1
        if batches == 4:  # after the black image and the two batches of the first shard
            second.set()
        return start(self, pixels)

    def waiting(*arguments: Any) -> Any:
        assert second.wait(20)
        return store(*arguments)

    monkeypatch.setattr(Encoder, "start", counted)
    monkeypatch.setattr("clipcap.precompute.writer.store_tables", waiting)
    options = [*small_models(clip_folder, tokenizer_folder), "--shard-size", 7]
    result = run("precompute", tmp_path / "coco", "-o", tmp_path / "c.h5", *options)
    assert result.status == 0, result.err
    assert Cache.open(tmp_path / "c.h5").images == 17


def test_a_dataset_that_goes_away_in_the_middle_ends_the_run_within_a_window() -> None:
    failures = Failures(total=1_000_000, strict=False)
    for number in range(5000):
        failures.count(f"{number}.jpg", None if number % 2 else "not an image of a known format")
    with pytest.raises(SourceError) as caught:
        for number in range(5000, 6000):
            failures.count(f"{number}.jpg", "there is no such file")
    assert "501 of the last 1,000 images could not be read" in str(caught.value)
    assert "not an image of a known format (such as 0.jpg)" in str(caught.value)
    assert len(failures.found) == 2502
    assert WINDOW == 1000
