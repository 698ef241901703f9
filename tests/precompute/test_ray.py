"""Stage 1 on a local Ray of two workers: the files of a single run, also when a worker is killed."""

import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from runs import files

from clipcap.precompute import ray_engine
from clipcap.precompute.output import Output
from small_world import make_coco, small_models, spawn

Options = list[object]


@pytest.fixture
def options(clip_folder: Path, tokenizer_folder: Path, tmp_path: Path) -> Options:
    make_coco(tmp_path / "coco", train=19)
    return [tmp_path / "coco", *small_models(clip_folder, tokenizer_folder), "--device", "cpu"]


def workers() -> list[int]:
    """Return the processes of Ray that make shards."""
    found = []
    for folder in Path("/proc").iterdir():
        try:
            command = (folder / "cmdline").read_bytes()
        except OSError:  # no process, or one that has ended
            continue
        if command.startswith(b"ray::") and b"RayWorker" in command:
            found.append(int(folder.name))
    return found


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="the test finds a worker in /proc")
def test_a_killed_worker_costs_its_shard_and_the_files_are_those_of_one_machine(
    tmp_path: Path, run: Any, options: Options
) -> None:
    (tmp_path / "coco/train2017/000000000103.jpg").write_bytes(b"no image")
    options += ["--shard-size", 1, "--tokenizer", "new:300"]
    assert run("precompute", *options, "-o", tmp_path / "one/c.h5").status == 0
    ray = ["precompute", *options, "-o", tmp_path / "ray/c.h5", "--engine", "ray", "--devices", 2]
    process = spawn(*ray)  # type: ignore[arg-type]
    deadline = time.monotonic() + 300
    while len(Output(tmp_path / "ray/c.h5").shards()) < 4:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    (killed, *_) = workers()
    os.kill(killed, signal.SIGKILL)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert "Ray: 2 workers with 1 core each" in err
    assert "1 image skipped: not an image of a known format" in err
    assert out.startswith(f"{tmp_path}/ray/c.h5: 23 images")
    assert files(tmp_path / "ray") == files(tmp_path / "one")
    # Started again, it makes what is missing.
    for number in (0, 7, 20):
        Output(tmp_path / "ray/c.h5").shard(number).unlink()
    again = run(*ray, "--devices", 1)
    assert again.status == 0, again.err
    assert "3 images to encode, 21 known" in again.err
    assert files(tmp_path / "ray") == files(tmp_path / "one")


@pytest.mark.slow
def test_an_error_of_a_worker_is_the_error_of_the_command(tmp_path: Path, run: Any, options: Options) -> None:
    (tmp_path / "coco/train2017/000000000103.jpg").write_bytes(b"no image")
    result = run("precompute", *options, "-o", tmp_path / "c.h5", "--engine", "ray", "--strict", "--shard-size", 30)
    assert result.status == 2
    fact = "train2017/000000000103.jpg: not an image of a known format (--strict allows no failures)"
    assert result.err.splitlines()[-1] == f"clipcap-precompute: {fact}"
    assert not (tmp_path / "c.h5").exists()


class Here:
    """Ray as far as it is used, in this process."""

    def __init__(self) -> None:
        self.data = self

    def get(self, reference: Any) -> Any:
        return reference

    put = get

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": 2.0}

    def nodes(self) -> list[str]:
        return ["this machine"]

    def from_items(self, items: list[dict[str, int]], **_: Any) -> "Here":
        self._items = items
        return self

    def map_batches(self, worker: Any, *, fn_constructor_args: Any, **_: Any) -> "Here":
        self._worker = worker(*fn_constructor_args)
        return self

    def iter_rows(self) -> Iterator[dict[str, Any]]:
        for item in self._items:
            rows = self._worker({"shard": np.array([item["shard"]])})
            yield {name: values[0] for name, values in rows.items()}

    def shutdown(self) -> None:
        pass


def test_failures_of_all_workers_together_end_the_run_when_they_are_more_than_half(
    tmp_path: Path, run: Any, options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_engine, "_start_ray", Here)
    monkeypatch.setitem(sys.modules, "ray", Here())
    command = ["precompute", *options, "-o", tmp_path / "c.h5", "--engine", "ray", "--shard-size", 4]
    images = sorted((tmp_path / "coco/train2017").iterdir())
    for path in images[:13]:
        path.write_bytes(b"no image")
    result = run(*command)
    assert result.status == 2
    assert "13 of 24 images could not be read, which is more than half" in result.err
    assert not (tmp_path / "c.h5").exists()
    assert "13 of 24 images could not be read" in run(*command).err  # also where the shards are there already


@pytest.mark.parametrize(
    ("more", "fact"),
    [
        (["--engine", "spark"], "--engine spark is not known; use local or ray"),
        (["--engine", "ray", "--part", "1/2"], "--engine ray makes all shards, and --part is for one process"),
        (["--engine", "ray", "--retokenize"], "--engine ray makes all shards, and --retokenize is for one process"),
    ],
)
def test_what_ray_does_not_do_is_refused(
    tmp_path: Path, run: Any, options: Options, more: list[str], fact: str
) -> None:
    result = run("precompute", *options, "-o", tmp_path / "c.h5", *more)
    assert result.status == 2
    assert fact in result.err


def test_without_ray_the_error_says_how_to_install_it(
    tmp_path: Path, run: Any, options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    result = run("precompute", *options, "-o", tmp_path / "c.h5", "--engine", "ray")
    assert result.status == 2
    assert result.err.splitlines()[-1].endswith("--engine ray needs Ray; install it: pip install 'ray[data]'")


def test_a_url_is_refused_for_ray(tmp_path: Path, run: Any) -> None:
    result = run("precompute", "memory://set", "-o", tmp_path / "c.h5", "--engine", "ray")
    assert result.status == 2
    assert "memory://set is a URL; copy it there" in result.err
