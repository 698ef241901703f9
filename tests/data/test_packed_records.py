"""Packed records behave as a list of the same records, and take a fraction of its memory."""

import copy
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from clipcap.data.records import Record, Records, RecordsBuilder, Source

LIST = [
    Record("7", "train/ä.jpg", "train", ("A dog.", "Two dogs.", "")),
    Record("", "b.jpg", None, ()),
    Record("x\udcff", "c\udcff.jpg", "test", ("犬",)),
    Record("3", "3", "val", ("A dog.",)),
    Record("4", "4", None, ("one", "two", "three", "four", "five")),
]


HASH = "1581904f0778fc640fd9e74b3476cfc6d480ea175e49bc061c36358c50198894"


def test_packed_records_are_the_records_of_the_list() -> None:
    records = Records.of(LIST)
    assert len(records) == 5
    assert list(records) == LIST
    assert [records[number] for number in range(-5, 5)] == LIST * 2
    assert Records.of(records) is records
    with pytest.raises(IndexError):
        records[5]


def test_packed_records_equal_any_sequence_of_the_same_records() -> None:
    records = Records.of(LIST)
    assert records == LIST
    assert list(LIST) == records
    assert records == tuple(LIST)
    assert records == Records.of(LIST[:2] + LIST[2:])
    assert records != LIST[:4]
    for number, record in enumerate(LIST):
        for change in (
            {"id": "new"},
            {"path": "new"},
            {"split": "val" if number != 3 else None},
            {"captions": ("new",)},
        ):
            assert records != [*LIST[:number], replace(record, **change), *LIST[number + 1 :]]


def test_no_records_are_records_too() -> None:
    records = Records.of([])
    assert (len(records), list(records), records.captions(), list(records.ids())) == (0, [], 0, [])
    assert records == records.take([]) == records.with_splits([]) == []


@pytest.mark.parametrize("part", [slice(1, 4), slice(None, None, -1), slice(-2, None), slice(3, 1)])
def test_a_slice_is_that_of_the_list(part: slice) -> None:
    assert Records.of(LIST)[part] == LIST[part]


def columns(records: Records) -> tuple[list[str], list[str], list[str | None], int]:
    return list(records.ids()), list(records.paths()), list(records.splits()), records.captions()


@pytest.mark.parametrize(
    "change",
    [
        lambda records: records,
        lambda records: records.take([4, 0, 4, 2]),
        lambda records: records.take([4, 0, 4, 2]).take([3, 3, 1]),
        lambda records: records[::-1].with_splits(["train", "val", None, "test", "val"]).take([0, 2, 4]),
    ],
)
def test_columns_are_those_of_the_records(change: Callable[[Records], Records]) -> None:
    records = change(Records.of(LIST))
    assert columns(records) == (
        [record.id for record in records],
        [record.path for record in records],
        [record.split for record in records],
        sum(len(record.captions) for record in records),
    )


def test_a_part_or_other_splits_leave_the_whole_as_it_was() -> None:
    records = Records.of(LIST)
    assert records.take([4, 0, 4, 2]) == [LIST[4], LIST[0], LIST[4], LIST[2]]
    assert records.take([4, 1]).take([1]) == [LIST[1]]
    splits = ["val", "test", None, "train", "val"]
    changed = [replace(record, split=split) for record, split in zip(LIST, splits, strict=True)]
    assert records.with_splits(splits) == changed
    assert records.with_splits(splits).take([3, 2]) == [changed[3], changed[2]]
    assert records.take([3, 2]).with_splits(["test", "test"]).take([1]) == [replace(LIST[2], split="test")]
    assert records == LIST


def test_captions_are_sorted_by_the_names_of_an_image_and_then_by_their_arrival() -> None:
    builder = RecordsBuilder()
    for group, caption in [(2, "c1"), (0, "a1"), (3, "d1"), (2, "c2"), (1, "b1"), (0, "a2")]:
        builder.add_caption(group, caption)
    assert builder.add("first", "1.jpg", "train") == 0
    assert builder.add("second", "2.jpg", None) == 1
    builder.join(0)
    assert builder.add("third", "3.jpg", "val") == 2
    builder.join(2)
    builder.set_split(1, "test")
    assert [builder.split(record) for record in range(3)] == ["train", "test", "val"]
    builder.add_caption(4, "e1")
    assert builder.build() == [
        Record("first", "1.jpg", "train", ("a1", "a2", "c1", "c2")),
        Record("second", "2.jpg", "test", ("b1",)),
        Record("third", "3.jpg", "val", ("d1", "e1")),
    ]


def test_removed_captions_are_gone() -> None:
    builder = RecordsBuilder()
    builder.append(LIST[0])
    kept = builder.caption_count()
    builder.add_caption(1, "wrong")
    builder.remove_captions(kept)
    builder.append(LIST[4])
    assert builder.build() == [LIST[0], LIST[4]]


def test_records_can_be_sent_to_another_process() -> None:
    records = Records.of(LIST).take([2, 0])
    assert copy.deepcopy(records) == records  # in the way that pickle does


def test_the_hash_of_a_dataset_is_that_of_its_first_version() -> None:
    # Caches record it: a cache of an older version must be found finished by every later one.
    source = Source(format="test", root=Path(), records=LIST)
    assert source.sha256() == replace(source, records=Records.of(LIST)).sha256() == HASH


def test_packed_records_take_little_more_memory_than_their_texts() -> None:
    def make(number: int) -> Record:
        captions = tuple(f"A man number {number} rides the wave {i} on a surfboard." for i in range(5))
        return Record(str(number), f"train2017/{number:012d}.jpg", "train", captions)

    def used(make_all: Callable[[], object]) -> int:
        tracemalloc.start()
        kept = make_all()
        size, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        del kept
        return size // 5000

    packed = used(lambda: Records.of(map(make, range(5000))))
    texts = len(make(1234).id + make(1234).path + "".join(make(1234).captions))
    assert packed < texts + 150
    assert packed < 0.6 * used(lambda: list(map(make, range(5000))))
