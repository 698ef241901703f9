"""The progress of long work on stderr: a bar in a terminal, a plain line every few seconds in a pipe."""

import logging
import sys
import time
from collections import deque
from types import TracebackType
from typing import Any, Self

from clipcap.data.command.interrupt import raise_if_interrupted
from clipcap.data.command.messages import console, messages_are_shown
from clipcap.data.command.printable import printable

logger = logging.getLogger(__name__)

LINE_EVERY = 10.0  # seconds between two lines in a pipe
RATE_OVER = 60.0  # seconds whose rate is shown, and gives the time left


def plural(count: int, noun: str) -> str:
    """A count with its noun: `1 image`, `2,048 images`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def duration(seconds: float) -> str:
    """A duration in seconds as people write it: `8s`, `3m 20s`, `7h 05m`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m {whole % 60:02d}s"
    return f"{whole // 3600}h {whole % 3600 // 60:02d}m"


class Progress:
    """Shows how far a loop has come: count, rate of the last minute, time left, how many were skipped, and a remark.

    Args:
        what: the activity, as a verb: `encoding`.
        unit: what is counted, in the plural: `images`.
        total: how many there are, or None if that is not known.
        done: how many were done before this run. They do not count for the rate.
        bar: whether a bar may be drawn if stderr is a terminal.
    """

    def __init__(self, what: str, unit: str, total: int | None, done: int = 0, *, bar: bool = True) -> None:
        self.what, self.unit, self.total = what, unit, total
        self.done = done
        self.skipped = 0
        self.remark = ""
        self._start()
        self._drawn = bar and sys.stderr.isatty() and messages_are_shown() and logger.isEnabledFor(logging.INFO)
        self._bar: Any = None
        self._task: Any = None

    def _start(self) -> None:
        self._last_line = time.monotonic()
        self._counts = deque([(self._last_line, self.done)])  # times, at least a second apart, and what was done then

    def __enter__(self) -> Self:
        self._start()
        if self._drawn:
            from rich.progress import BarColumn, TextColumn
            from rich.progress import Progress as Bar

            self._bar = Bar(
                TextColumn(self.what, markup=False), BarColumn(), TextColumn("{task.description}", markup=False),
                console=console(), transient=True,
            )  # fmt: skip
            self._task = self._bar.add_task(self.text(), total=self.total, completed=self.done)
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def advance(self, count: int = 1, skipped: int = 0, remark: str = "") -> None:
        """Count `count` more as done, `skipped` of them as skipped; `remark` replaces the last remark.

        Raises:
            KeyboardInterrupt: Ctrl-C was pressed, and was lost where it arrived.
        """
        raise_if_interrupted()
        self.done += count
        now = time.monotonic()
        if now - self._counts[-1][0] >= 1:
            self._counts.append((now, self.done))
        while len(self._counts) > 1 and now - self._counts[1][0] >= RATE_OVER:
            self._counts.popleft()
        self.skipped += skipped
        self.remark = remark or self.remark
        if self._bar is not None:
            self._bar.update(self._task, completed=self.done, description=self.text())
        elif not sys.stderr.isatty() and time.monotonic() - self._last_line >= LINE_EVERY:
            self._last_line = time.monotonic()
            logger.info(f"{self.what} {self.text()}")

    def text(self) -> str:
        """The state on one line: `512/118,287 images, 230.1/s, 8m 32s left, 3 skipped`."""
        begin, before = self._counts[0]
        rate = (self.done - before) / max(time.monotonic() - begin, 1e-9)
        count = f"{self.done:,}" if self.total is None else f"{self.done:,}/{self.total:,}"
        parts = [f"{count} {self.unit}", f"{rate:.1f}/s"]
        if self.total is not None and rate > 0:
            parts.append(f"{duration((self.total - self.done) / rate)} left")
        if self.skipped:
            parts.append(f"{self.skipped:,} skipped")
        if self.remark:
            parts.append(self.remark)
        return printable(", ".join(parts))
