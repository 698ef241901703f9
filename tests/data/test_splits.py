"""Drawn splits and limits are stable, keep to the dataset's own splits, and leave no split empty."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from clipcap.data.records import Record, Source, hash_fraction
from clipcap.data.splits import draw_splits


def make_source(splits: Sequence[str | None], missing: Sequence[int] = ()) -> Source:
    records = [Record(f"id{i}", f"{i}.jpg", split, ("x",)) for i, split in enumerate(splits)]
    return Source(format="test", root=Path(), records=records, missing=[f"{i}.jpg" for i in missing])


def found(source: Source, split: str) -> list[str]:
    """Paths of the images of a split that exist."""
    return [record.path for record in source.records if record.split == split and record.path not in source.missing]


def test_the_hash_of_an_id_never_changes() -> None:
    # A dataset that was split once must be split the same way by every later version.
    assert hash_fraction("id0", 0) == 0.2796551914157217


def test_a_dataset_with_val_keeps_its_own_splits() -> None:
    drawn, any_drawn = draw_splits(make_source(["train", "val", "test", None]), 0.9, 0)
    assert [record.split for record in drawn.records] == ["train", "val", "test", "train"]
    assert not any_drawn


def test_a_missing_val_is_drawn_from_train_and_never_from_test() -> None:
    drawn, any_drawn = draw_splits(make_source(["train", None, "test"] * 1000), 0.2, 0)
    assert any_drawn
    counts = drawn.counts()
    assert counts["test"] == 1000
    assert 340 < counts["val"] < 460  # 400 expected, standard deviation 18
    assert all(record.split == "test" for record in drawn.records[2::3])


def test_the_split_of_an_image_does_not_depend_on_the_others() -> None:
    whole, _ = draw_splits(make_source(["train"] * 500), 0.3, 7)
    part, _ = draw_splits(Source(format="test", root=Path(), records=whole.records[100:200]), 0.3, 7)
    again, _ = draw_splits(make_source(["train"] * 500), 0.3, 7)
    assert again.records == whole.records
    assert part.records == whole.records[100:200]


def test_another_seed_draws_another_split() -> None:
    first, _ = draw_splits(make_source(["train"] * 100), 0.3, 0)
    second, _ = draw_splits(make_source(["train"] * 100), 0.3, 1)
    assert first.records != second.records


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize(("count", "val_fraction"), [(2, 0.01), (2, 0.99), (5, 0.05), (30, 0.001)])
def test_a_drawn_split_leaves_neither_train_nor_val_empty(count: int, val_fraction: float, seed: int) -> None:
    drawn, any_drawn = draw_splits(make_source([None] * count), val_fraction, seed)
    assert any_drawn
    assert drawn.counts()["val"] >= 1
    assert drawn.counts()["train"] >= 1


@pytest.mark.parametrize("seed", range(20))
def test_the_image_that_a_drawn_val_has_at_least_exists(seed: int) -> None:
    drawn, _ = draw_splits(make_source([None, "test"] * 10, missing=range(0, 16, 2)), 0.5, seed)
    assert len(found(drawn, "val")) >= 1
    assert len(found(drawn, "train")) >= 1
    assert drawn.counts()["test"] == 10


@pytest.mark.parametrize(("splits", "val_fraction"), [(["train"], 0.5), (["train", "test"], 0.5), ([None] * 9, 0.0)])
def test_one_image_is_trained_on_and_a_fraction_of_zero_draws_no_val(
    splits: list[str | None], val_fraction: float
) -> None:
    assert hash_fraction("id0", 0) < 0.5  # by its hash alone, the first image would be drawn
    drawn, _ = draw_splits(make_source(splits), val_fraction, 0)
    assert "val" not in drawn.counts()


def test_a_limit_takes_existing_images_in_proportion() -> None:
    whole = make_source(["train"] * 80 + ["val"] * 20, missing=range(0, 80, 2))
    limited = whole.limited(30, 0)
    assert limited.counts() == {"train": 20, "val": 10}
    assert not {record.path for record in limited.records} & set(whole.missing)
    assert len({record.id for record in limited.records}) == 30
    assert limited.missing == []


def test_a_limit_above_the_size_takes_everything_that_exists() -> None:
    assert make_source(["train"] * 50 + ["val"] * 7).limited(1000, 0).counts() == {"train": 50, "val": 7}
    assert [record.id for record in make_source([None] * 4, missing=[2]).limited(4, 0).records] == ["id0", "id1", "id3"]


@pytest.mark.parametrize("period", [2, 3, 4, 5, 10])
def test_a_limit_keeps_the_share_of_a_split_that_comes_at_regular_places(period: int) -> None:
    # Every n-th image of a dataset whose splits alternate would be of one split alone.
    whole = make_source([("val" if i % period == 0 else "train") for i in range(40 * period)])
    assert whole.limited(40, 0).counts() == {"train": 40 - 40 // period, "val": 40 // period}


@pytest.mark.parametrize("limit", range(1, 8))
def test_a_limit_leaves_no_split_empty_that_has_images(limit: int) -> None:
    limited = make_source(["train"] * 90 + ["val"] * 2 + ["test"] * 3).limited(limit, 0)
    assert len(limited.records) == limit
    assert list(limited.counts()) == ["train", "val", "test"][:limit]


def test_a_limit_keeps_the_order_and_depends_on_id_and_seed_alone() -> None:
    whole = make_source(["train"] * 200)
    first, other_seed = whole.limited(50, 3), whole.limited(50, 4)
    numbers = [int(record.id.removeprefix("id")) for record in first.records]
    assert numbers == sorted(numbers)
    assert first.records != other_seed.records
    backwards = Source(format="test", root=Path(), records=whole.records[::-1]).limited(50, 3)
    assert backwards.records == first.records[::-1]
    assert {record.id for record in whole.limited(20, 3).records} < {record.id for record in first.records}


def test_a_limit_of_rows_takes_their_embeddings_along() -> None:
    import numpy as np

    whole = make_source(["train"] * 10)
    rows = np.arange(20.0).reshape(10, 2)
    limited = Source(format="test", root=Path(), records=whole.records, embedding=rows).limited(4, 0)
    assert limited.embedding is not None
    assert [2 * int(record.id.removeprefix("id")) for record in limited.records] == limited.embedding[:, 0].tolist()
