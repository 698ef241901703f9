"""The order of an epoch: every caption once, decided by seed and epoch, with whole images or single captions."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from clipcap.train.corpus.sampler import POOL_BLOCKS, _fit_to_batches, epoch_batches

IMAGE = np.repeat(np.arange(400), np.random.default_rng(0).integers(0, 6, 400))  # some images have no captions


@pytest.mark.parametrize("sampling", ["image", "caption"])
@pytest.mark.parametrize("block_images", [None, 7, 1000])
def test_an_epoch_visits_every_caption_once_as_seed_and_epoch_decide(sampling: str, block_images: int | None) -> None:
    def order(seed: int, epoch: int) -> list[list[int]]:
        batches = epoch_batches(
            IMAGE, 16, sampling=sampling, seed=seed, epoch=epoch, block_images=block_images
        )  # fmt: skip
        return [batch.tolist() for batch in batches]

    first, again, second, other = order(0, 0), order(0, 0), order(0, 1), order(1, 0)
    assert first == again
    flat = [[caption for batch in batches for caption in batch] for batches in (first, second, other)]
    assert all(sorted(captions) == list(range(len(IMAGE))) for captions in flat)
    assert flat[0] != flat[1] != flat[2] != flat[0]
    assert {len(batch) for batch in first[:-1]} == {16}


def test_the_example_in_the_docstring_is_the_order() -> None:
    (a0, a1), b0, (c0, c1, c2) = (0, 1), 2, (3, 4, 5)
    unit = np.array([0, 0, 1, 2, 2, 2])
    assert _fit_to_batches(np.array([c0, c1, c2, a0, a1, b0]), unit, 4).tolist() == [c0, c1, c2, a0, b0, a1]


def packs(image: NDArray[np.int64], batches: list[NDArray[np.int64]]) -> int:
    """How many prefixes an epoch computes."""
    return sum(len(np.unique(image[batch])) for batch in batches)


def test_images_stay_whole_and_captions_are_shuffled() -> None:
    def runs(sampling: str) -> int:
        order = np.concatenate(epoch_batches(IMAGE, len(IMAGE), sampling=sampling, seed=3, epoch=0))
        return 1 + int((np.diff(IMAGE[order]) != 0).sum())

    assert runs("image") == len(np.unique(IMAGE))
    assert runs("caption") > 0.95 * len(IMAGE)


@pytest.mark.parametrize("block_images", [None, 50])
def test_an_image_of_six_captions_does_not_make_all_later_images_cut(block_images: int | None) -> None:
    captions = np.full(400, 5)
    captions[[7, 99, 300]] = 6
    image = np.repeat(np.arange(400), captions)
    for epoch in range(5):
        batches = epoch_batches(image, 40, sampling="image", seed=0, epoch=epoch, block_images=block_images)
        assert [len(batch) for batch in batches] == [40] * 50 + [3]
        # Each of the three cuts at most one other image, and its rest again if it fills a batch. The second of
        # two pools cuts as many.
        assert 400 <= packs(image, batches) <= 400 + 2 * 3 * (1 if block_images is None else 2)


@pytest.mark.parametrize("batch_size", [1, 3, 16, 17, 64])
@pytest.mark.parametrize("block_images", [None, 100])
def test_fewer_images_are_cut_than_without_reordering(batch_size: int, block_images: int | None) -> None:
    packs_found = packs_plain = 0
    for epoch in range(10):
        order: Any = {"sampling": "image", "seed": 0, "epoch": epoch, "block_images": block_images}
        batches = epoch_batches(IMAGE, batch_size, **order)
        (whole,) = epoch_batches(IMAGE, len(IMAGE), **order)
        plain = [whole[start : start + batch_size] for start in range(0, len(whole), batch_size)]
        assert sorted(np.concatenate(batches).tolist()) == list(range(len(IMAGE)))
        assert [len(batch) for batch in batches] == [len(batch) for batch in plain]
        packs_found, packs_plain = packs_found + packs(IMAGE, batches), packs_plain + packs(IMAGE, plain)
    assert packs_found <= packs_plain


def test_an_image_larger_than_a_batch_continues_in_the_next() -> None:
    image = np.concatenate([np.zeros(100, dtype=np.int64), np.arange(1, 500)])
    starts = set()
    for epoch in range(5):
        batches = epoch_batches(image, 16, sampling="image", seed=0, epoch=epoch)
        whole = [number for number, batch in enumerate(batches) if (image[batch] == 0).all()]
        assert np.diff(whole[:5]).tolist() == [1, 1, 1, 1]
        starts.add(whole[0])
    assert len(starts) > 3


def test_the_order_of_an_epoch_is_independent_of_the_last() -> None:
    ranks = []
    for epoch in range(2):
        order = np.concatenate(epoch_batches(IMAGE, 16, sampling="image", seed=0, epoch=epoch))
        ranks.append(np.argsort(order))
    assert abs(np.corrcoef(ranks[0], ranks[1])[0, 1]) < 0.15
    assert abs(np.corrcoef(ranks[0], np.arange(len(IMAGE)))[0, 1]) < 0.15


def test_all_batches_of_an_epoch_share_one_array() -> None:
    """COCO has 14,169 batches of 40: a copy of the order for each would take 64 GB."""
    for block_images in (None, 7):
        batches = epoch_batches(IMAGE, 16, sampling="image", seed=0, epoch=0, block_images=block_images)
        order = batches[0].base
        assert order is not None and len(order) == len(IMAGE)
        assert all(batch.base is order for batch in batches)


@pytest.mark.parametrize("sampling", ["image", "caption"])
def test_a_streamed_epoch_touches_few_blocks_at_a_time(sampling: str) -> None:
    batches = epoch_batches(IMAGE, 16, sampling=sampling, seed=0, epoch=0, block_images=7)
    order = IMAGE[np.concatenate(batches)] // 7
    seen, pools = set(), []
    for block in order:
        if block not in seen:
            pools.append(block)
            seen.add(block)
    last = {block: int(np.flatnonzero(order == block).max()) for block in seen}
    first = {block: int(np.flatnonzero(order == block).min()) for block in seen}
    together = max(sum(first[b] <= index <= last[b] for b in seen) for index in range(0, len(order), 5))
    assert together <= POOL_BLOCKS
    assert pools != sorted(pools)


def test_fewer_captions_than_a_batch_still_train() -> None:
    assert [b.tolist() for b in epoch_batches(np.array([3]), 40, sampling="image", seed=0, epoch=0)] == [[0]]
