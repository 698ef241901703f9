"""Runs a function in several threads, a few items ahead of whoever takes the results."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from clipcap.precompute.settings import MAX_WORKERS

Item = TypeVar("Item")
Result = TypeVar("Result")

AHEAD = 2  # items for each thread that are submitted before the first result is taken


def available_cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def choose_workers(wanted: int | None = None) -> int:
    """Return a number of threads for images: `wanted`, or one for each core, at most `MAX_WORKERS`."""
    return min(MAX_WORKERS, available_cores()) if wanted is None else wanted


def map_in_order(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    threads: int,
    *,
    begin: Callable[[], None] = lambda: None,
) -> Iterator[Result]:
    """Apply a function to items in threads, and yield the results in order. At most `AHEAD` items a thread wait.

    Args:
        function: runs in several threads at once. What it raises, is raised where its result is taken.
        items: read in the caller's thread, as they are needed.
        threads: how many; 0 runs the function in the caller's thread.
        begin: is called at the start of each thread.
    """
    if not threads:
        yield from map(function, items)
        return
    pool = ThreadPoolExecutor(threads, thread_name_prefix="clipcap", initializer=begin)
    waiting: deque[Future[Result]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > AHEAD * threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)  # threads end after the item that they are at
