"""The first Ctrl-C asks a run to stop and save, the second one stops it at once."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


@contextmanager
def on_interrupt(request: Callable[[], None]) -> Iterator[None]:
    """While inside, call `request` on the first SIGINT (Ctrl-C) or SIGTERM; the next one has its usual effect.

    Outside the main thread, where Python allows no signal handlers, this does nothing.
    """
    before: dict[int, Any] = {}

    def handle(number: int, frame: FrameType | None) -> None:
        signal.signal(number, before[number])
        request()

    try:
        for number in (int(signal.SIGINT), int(signal.SIGTERM)):
            before[number] = signal.getsignal(number)
            signal.signal(number, handle)
    except ValueError:  # not in the main thread
        before.clear()
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
