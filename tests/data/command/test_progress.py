"""Progress in a pipe is plain lines."""

import logging
import time

import pytest

from clipcap.data.command.progress import Progress, duration, plural


def test_counts_and_durations_read_as_people_write_them() -> None:
    assert [plural(1, "image"), plural(0, "image"), plural(2048, "image")] == [
        "1 image",
        "0 images",
        "2,048 images",
    ]
    assert [duration(8.4), duration(200), duration(25_500)] == ["8s", "3m 20s", "7h 05m"]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time in seconds, as its only item."""
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def test_rate_time_left_and_skipped(clock: list[float], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "clipcap")
    with Progress("encoding", "images", 1000, done=200) as bar:
        clock[0] = 20
        bar.advance(400, skipped=3)  # after 20 seconds: a line
        clock[0] = 25
        bar.advance(100)  # 5 seconds later: none yet
        assert bar.done == 700
    assert caplog.messages == ["encoding 600/1,000 images, 20.0/s, 20s left, 3 skipped"]


def test_the_rate_is_that_of_the_last_minute(clock: list[float]) -> None:
    bar = Progress("encoding", "images", 10_000)
    for second in range(1, 121):
        clock[0] = float(second)
        bar.advance(1 if second <= 60 else 5)
    assert bar.text() == "360/10,000 images, 5.0/s, 32m 08s left"
    clock[0] = 500.0
    bar.advance(5)  # after a long wait, which counts
    assert bar.text() == "365/10,000 images, 0.0/s, 203h 24m left"
