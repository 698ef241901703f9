"""Stage 1 killed at any moment and run again ends as the run that nobody disturbed."""

import os
import random
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from clipcap.data.cache.index import Cache
from small_world import Crash, crash_at, make_coco, small_models, spawn

pytestmark = pytest.mark.slow

SHARDS = ["--shard-size", 5]


def contents(cache: Path) -> list[str]:
    return [shard.content for shard in Cache.open(cache).shards]


def test_a_crash_at_every_change_of_the_disk(
    coco: Path, tmp_path: Path, run: Any, clip_folder: Path, tokenizer_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = [*small_models(clip_folder, tokenizer_folder), *SHARDS]
    assert run("precompute", coco, "-o", tmp_path / "undisturbed.h5", *options).status == 0
    expected = contents(tmp_path / "undisturbed.h5")
    for count in range(1000):
        index = tmp_path / f"{count}" / "cache.h5"
        with monkeypatch.context() as patch:
            crash_at(patch, count)
            try:
                run("precompute", coco, "-o", index, *options)
                crashed = False
            except (Crash, AssertionError):
                crashed = True
        if not crashed:
            break
        assert run("precompute", coco, "-o", index, *options).status == 0
        assert contents(index) == expected
        assert not list(index.parent.glob(".*"))
    assert count == 15  # four shards and the index, each synced, renamed, and its name synced


def test_killed_at_random_moments(tmp_path: Path, clip_folder: Path, tokenizer_folder: Path) -> None:
    make_coco(tmp_path / "coco", train=40, val=10)
    options = [*small_models(clip_folder, tokenizer_folder), "--shard-size", 3]
    begin = time.monotonic()
    undisturbed = spawn("precompute", tmp_path / "coco", "-o", tmp_path / "undisturbed.h5", *options)
    undisturbed.communicate()
    assert undisturbed.returncode == 0
    whole = time.monotonic() - begin
    moments = random.Random(0)
    kills = 0
    index = tmp_path / "again" / "cache.h5"
    for attempt in range(5):
        process = spawn("precompute", tmp_path / "coco", "-o", index, *options)
        # The first within the start, the others spread over the run: importing takes most of it.
        seconds = moments.uniform(0, 0.3) if attempt == 0 else moments.uniform(0.6, 1.0) * whole
        try:
            process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            os.kill(process.pid, signal.SIGKILL)
            process.communicate()
            kills += 1
    assert kills >= 1
    last = spawn("precompute", tmp_path / "coco", "-o", index, *options)
    _, err = last.communicate()
    assert last.returncode == 0, err
    assert contents(index) == contents(tmp_path / "undisturbed.h5")
    assert len(list(Cache.open(index).verify())) == 17


def test_ctrl_c_keeps_what_is_done_and_says_how_to_go_on(
    tmp_path: Path, clip_folder: Path, tokenizer_folder: Path
) -> None:
    make_coco(tmp_path / "coco", train=300, val=10)
    options = [*small_models(clip_folder, tokenizer_folder), "--shard-size", 1]
    process = spawn("precompute", tmp_path / "coco", "-o", tmp_path / "c.h5", *options)
    deadline = time.monotonic() + 60
    while len(list(tmp_path.glob("c-*.h5"))) < 3:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert out == ""
    assert "kept: run the same command again to go on" in err
    assert err.splitlines()[-1] == "clipcap-precompute: interrupted"
    assert "Traceback" not in err
    assert len(list(tmp_path.glob("c-*.h5"))) >= 3
