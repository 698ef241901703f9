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


def test_rate_time_left_and_skipped(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "clipcap")
    clock = iter([0.0, 0.0, 20.0, 20.0, 20.0, 25.0, 25.0])
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    with Progress("encoding", "images", 1000, done=200) as bar:
        bar.advance(400, skipped=3)  # after 20 seconds: a line
        bar.advance(100)  # 5 seconds later: none yet
        assert bar.done == 700
    assert caplog.messages == ["encoding 600/1,000 images, 20.0/s, 20s left, 3 skipped"]
