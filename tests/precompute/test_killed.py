"""Stage 1, killed at any moment and run again, makes the cache of a run that was not disturbed."""

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


def wait_for(process: "subprocess.Popen[str]", pattern: str, folder: Path, count: int = 1) -> None:
    """Wait until a process that runs has written `count` files."""
    deadline = time.monotonic() + 120
    while len(list(folder.glob(pattern))) < count:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_run_after_a_crash_at_any_write_makes_the_same_cache(
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
    assert count == 15  # four shards and the index: each is synced, renamed, and its folder synced


def test_a_run_after_kills_at_random_moments_makes_the_same_cache(
    tmp_path: Path, run: Any, clip_folder: Path, tokenizer_folder: Path
) -> None:
    make_coco(tmp_path / "coco", train=40, val=10)
    options = [*small_models(clip_folder, tokenizer_folder), "--shard-size", 3]
    assert run("precompute", tmp_path / "coco", "-o", tmp_path / "undisturbed.h5", *options).status == 0
    moments = random.Random(0)
    kills = 0
    index = tmp_path / "again" / "cache.h5"
    for attempt in range(4):
        before = len(list(index.parent.glob("cache-*.h5")))
        process = spawn("precompute", tmp_path / "coco", "-o", index, *options)
        # The first kill is during the start, the others among the shards: importing takes most of the time.
        if attempt > 0:
            while process.poll() is None and len(list(index.parent.glob("cache-*.h5"))) == before:
                time.sleep(0.005)
        time.sleep(moments.uniform(0, 0.3 if attempt == 0 else 0.1))
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
            kills += 1
        process.communicate()
    assert kills >= 1
    last = run("precompute", tmp_path / "coco", "-o", index, *options)
    assert last.status == 0, last.err
    assert contents(index) == contents(tmp_path / "undisturbed.h5")
    assert len(list(Cache.open(index).verify())) == 17


def test_ctrl_c_keeps_finished_shards_and_the_message_says_how_to_continue(
    tmp_path: Path, clip_folder: Path, tokenizer_folder: Path
) -> None:
    make_coco(tmp_path / "coco", train=90, val=10)
    options = [*small_models(clip_folder, tokenizer_folder), "--shard-size", 1]
    process = spawn("precompute", tmp_path / "coco", "-o", tmp_path / "c.h5", *options)
    wait_for(process, "c-*.h5", tmp_path, 3)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert out == ""
    assert "run the same command again to continue" in err
    assert err.splitlines()[-1] == "clipcap-precompute: interrupted"
    assert "Traceback" not in err
    assert len(list(tmp_path.glob("c-*.h5"))) >= 3


@pytest.mark.slow
def test_a_second_run_into_the_same_output_is_refused_and_a_killed_one_does_not_block(
    tmp_path: Path, run: Any, clip_folder: Path, tokenizer_folder: Path
) -> None:
    make_coco(tmp_path / "coco", train=50, val=10)
    options = [*small_models(clip_folder, tokenizer_folder), "--shard-size", 1]
    arguments = [tmp_path / "coco", "-o", tmp_path / "c.h5", *options]
    process = spawn("precompute", *arguments)
    wait_for(process, "c-*.h5", tmp_path)
    process.send_signal(signal.SIGSTOP)
    os.waitpid(process.pid, os.WUNTRACED)  # its threads stop a moment later, and until then write
    try:
        before = {path: path.read_bytes() for path in tmp_path.glob("*c*.h5*")}
        for more in ([], ["--overwrite"]):
            refused = run("precompute", *arguments, *more)
            assert refused.status == 2
            assert f"process {process.pid} " in refused.err
        assert {path: path.read_bytes() for path in tmp_path.glob("*c*.h5*")} == before
        other = run("precompute", tmp_path / "coco", "-o", tmp_path / "other.h5", *options, "--limit", 2)
        assert other.status == 0
    finally:
        process.kill()
        process.communicate()
    assert (tmp_path / ".c.h5.lock").exists()
    assert run("precompute", *arguments).status == 0
    assert Cache.open(tmp_path / "c.h5").images == 60
    assert not (tmp_path / ".c.h5.lock").exists()
    (tmp_path / ".c.h5.lock").write_text('{"pid": 1}')  # as of a process that was killed when all was written
    assert "finished already" in run("precompute", *arguments).err
    assert not (tmp_path / ".c.h5.lock").exists()
