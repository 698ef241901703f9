"""Items are mapped in threads, a few ahead, and come in order."""

import threading
from collections.abc import Iterator

import pytest

from clipcap.precompute.parallel import AHEAD, map_in_order


@pytest.mark.parametrize("threads", [0, 1, 3])
def test_results_come_in_order_whichever_item_is_done_first(threads: int) -> None:
    second = threading.Event()

    def slow_first(item: int) -> int:
        if item == 0 and threads > 1:
            assert second.wait(10)
        if item == 1:
            second.set()
        return item * item

    assert list(map_in_order(slow_first, range(20), threads)) == [item * item for item in range(20)]


def test_items_are_read_only_a_few_ahead() -> None:
    read: list[int] = []

    def items() -> Iterator[int]:
        for item in range(100):
            read.append(item)
            yield item

    results = map_in_order(abs, items(), 2)
    for taken in range(3):
        assert next(results) == taken
        assert len(read) == 2 * AHEAD + 1 + taken


def test_each_thread_begins_once_and_none_is_left_when_the_results_are_no_longer_wanted() -> None:
    begun: list[str] = []
    results = map_in_order(abs, range(100), 2, begin=lambda: begun.append(threading.current_thread().name))
    next(results)
    results.close()  # type: ignore[attr-defined]
    assert len(begun) == len(set(begun)) <= 2
    assert not [thread for thread in threading.enumerate() if thread.name in begun]


def test_an_error_is_raised_in_its_place() -> None:
    results = map_in_order(lambda item: 12 // item, [3, 0, 4], 2)
    assert next(results) == 4
    with pytest.raises(ZeroDivisionError):
        next(results)
