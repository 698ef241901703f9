"""Drawn splits and limits: stable, never leaking, in proportion."""

from collections.abc import Sequence
from pathlib import Path

from clipcap.data.records import Record, Source
from clipcap.data.splits import draw_splits, fraction


def source(splits: Sequence[str | None]) -> Source:
    records = [Record(f"id{i}", f"{i}.jpg", split, ("x",)) for i, split in enumerate(splits)]
    return Source(format="test", root=Path(), records=records)


def test_the_hash_is_the_same_for_ever() -> None:
    # A dataset that was split once must be split the same way by every later version.
    assert fraction("id0", 0) == 0.2796551914157217


def test_a_dataset_with_val_keeps_its_own_splits() -> None:
    drawn, any_drawn = draw_splits(source(["train", "val", "test", None]), 0.9, 0)
    assert [record.split for record in drawn.records] == ["train", "val", "test", "train"]
    assert not any_drawn


def test_a_missing_val_is_drawn_from_train_alone_and_never_from_test() -> None:
    drawn, any_drawn = draw_splits(source(["train", None, "test"] * 1000), 0.2, 0)
    assert any_drawn
    counts = drawn.counts()
    assert counts["test"] == 1000
    assert 340 < counts["val"] < 460  # 400 expected, standard deviation 18
    assert all(record.split == "test" for record in drawn.records[2::3])


def test_the_split_of_a_picture_does_not_depend_on_the_others() -> None:
    whole, _ = draw_splits(source(["train"] * 500), 0.3, 7)
    part, _ = draw_splits(Source(format="test", root=Path(), records=whole.records[100:200]), 0.3, 7)
    again, _ = draw_splits(source(["train"] * 500), 0.3, 7)
    assert again.records == whole.records
    assert part.records == whole.records[100:200]


def test_another_seed_is_another_split() -> None:
    first, _ = draw_splits(source(["train"] * 100), 0.3, 0)
    second, _ = draw_splits(source(["train"] * 100), 0.3, 1)
    assert first.records != second.records


def test_a_limit_takes_found_pictures_in_proportion() -> None:
    whole = source(["train"] * 80 + ["val"] * 20)
    missing = [f"{i}.jpg" for i in range(0, 80, 2)]
    limited = Source(format="test", root=Path(), records=whole.records, missing=missing).limited(30)
    assert limited.counts() == {"train": 20, "val": 10}
    assert not {record.path for record in limited.records} & set(missing)
    assert len({record.id for record in limited.records}) == 30
    assert whole.limited(1000).records == whole.records
