"""One process a device: together they make the cache of a single run."""

import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from runs import files

from clipcap.data.cache.index import Cache
from small_world import make_coco, small_models, spawn

Options = list[object]
pytestmark = pytest.mark.slow


@pytest.fixture
def options(clip_folder: Path, tokenizer_folder: Path, tmp_path: Path) -> Options:
    make_coco(tmp_path / "coco")  # 17 images, 5 shards
    return [tmp_path / "coco", *small_models(clip_folder, tokenizer_folder), "--shard-size", 4, "--device", "cpu"]


def test_two_processes_make_the_files_of_one(tmp_path: Path, run: Any, options: Options) -> None:
    (tmp_path / "coco/train2017/000000000103.jpg").write_bytes(b"no image")
    expected = run("precompute", *options, "-o", tmp_path / "one/c.h5")
    result = run("precompute", *options, "-o", tmp_path / "two/c.h5", "--devices", 2)
    assert result.status == 0, result.err
    assert files(tmp_path / "two") == files(tmp_path / "one")
    assert result.out == expected.out.replace("/one/", "/two/")
    assert "[1/2] 1 thread to load and encode" in result.err
    assert "[2/2] 1 thread to load and encode" in result.err
    assert "1 image skipped: not an image of a known format" in result.err
    assert "finished already" in run("precompute", *options, "-o", tmp_path / "two/c.h5", "--devices", 2).err


def test_an_error_of_a_process_is_the_error_of_the_command(tmp_path: Path, run: Any, options: Options) -> None:
    (tmp_path / "coco/train2017/000000000103.jpg").write_bytes(b"no image")
    result = run("precompute", *options, "-o", tmp_path / "c.h5", "--devices", 2, "--strict")
    assert result.status == 2
    fact = "part 1/2: train2017/000000000103.jpg: not an image of a known format (--strict allows no failures)"
    assert result.err.splitlines()[-1] == f"clipcap-precompute: {fact}"
    assert sorted(path.name for path in tmp_path.glob("c-*.h5")) == ["c-00001.h5", "c-00003.h5"]  # of the other part


def test_ctrl_c_ends_all_processes(tmp_path: Path, clip_folder: Path, tokenizer_folder: Path) -> None:
    make_coco(tmp_path / "coco", train=200, val=10)
    models = [*small_models(clip_folder, tokenizer_folder), "--shard-size", 1, "--device", "cpu"]
    process = spawn("precompute", tmp_path / "coco", "-o", tmp_path / "c.h5", *models, "--devices", 2)
    deadline = time.monotonic() + 240
    while not list(tmp_path.glob("c-*.h5")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    try:
        _, err = process.communicate(timeout=120)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    assert process.returncode == 130
    assert "run the same command again to continue" in err
    assert err.splitlines()[-1] == "clipcap-precompute: interrupted"
    assert "Traceback" not in err
    assert not list(tmp_path.glob(".c.h5*"))  # no lock of a process that lives on
    assert not (tmp_path / "c.h5").exists()


@pytest.mark.parametrize(
    ("more", "fact"),
    [
        (["--part", "1/2"], "--part 1/2 is one process, and --devices 2 are several; leave one of them out"),
        (["--retokenize"], "--retokenize needs no device; leave --devices 2 out"),
        (["--device", "cuda"], "--device cuda"),
    ],
)
def test_what_does_not_go_together_is_refused(
    tmp_path: Path, run: Any, options: Options, more: list[str], fact: str
) -> None:
    result = run("precompute", *options, "-o", tmp_path / "c.h5", "--devices", 2, *more)
    assert result.status == 2
    assert fact in result.err
    assert not list(tmp_path.glob("c*.h5"))


def test_a_cache_grows_on_several_devices(tmp_path: Path, run: Any, options: Options) -> None:
    assert run("precompute", *options, "-o", tmp_path / "old.h5", "--limit", 9).status == 0
    reused = run("precompute", *options, "-o", tmp_path / "c.h5", "--devices", 2, "--reuse", tmp_path / "old.h5")
    assert reused.status == 0, reused.err
    assert Cache.open(tmp_path / "c.h5").images == 17
