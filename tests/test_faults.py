"""Every call of the file system fails in turn, in each stage: the next run ends as if nothing had been.

The error is one line that names the command. In the suite some of the calls fail, evenly spread, and half of the time
all that follow; all of them with FAULTS=all.
"""

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from runs import files, metrics

from clipcap.data.cache.index import Cache
from faults import ERRORS, Faults
from small_world import Run, make_coco, small_models

pytestmark = pytest.mark.slow

FEW = None if os.environ.get("FAULTS") == "all" else 8  # calls that fail in the suite


@dataclass(frozen=True)
class Stage:
    """A stage on a disk of its own.

    Attributes:
        arguments: of its command, whose last one is the output.
        result: what its output holds.
    """

    command: str
    arguments: list[object]
    result: Callable[[Path], Any]


@pytest.fixture(params=["precompute", "train", "caption"])
def stage(request: pytest.FixtureRequest, tmp_path: Path) -> Stage:
    clip, tokenizer, lm = (request.getfixturevalue(f"{name}_folder") for name in ("clip", "tokenizer", "lm"))
    if request.param == "precompute":
        make_coco(tmp_path / "coco", train=4, val=2)
        # One image a batch: an image that fails is encoded alone by the next run, and its neighbours are bit-equal.
        options = [*small_models(clip, tokenizer), "--batch-size", 1, "--shard-size", 2]
        return Stage("precompute", [tmp_path / "coco", *options, "-o"], cache_result)
    if request.param == "train":
        for file in request.getfixturevalue("small_cache").parent.glob("*.h5"):
            shutil.copy(file, tmp_path)
        options = ["--lm", lm, "--epochs", 2, "--batch-size", 17, "--device", "cpu", "--precision", "fp32"]
        return Stage("train", [tmp_path / "cache.h5", "--resume", *options, "-o"], run_result)
    shutil.copytree(request.getfixturevalue("trained") / "best", tmp_path / "best")
    np.save(tmp_path / "rows.npy", np.random.default_rng(0).normal(size=(4, 16)).astype(np.float32))
    options = ["--model", tmp_path / "best", "--device", "cpu", "--batch-size", 1, "--jsonl"]
    return Stage("caption", [tmp_path / "rows.npy", *options, "-o"], files)


def cache_result(folder: Path) -> Any:
    cache = Cache.open(folder / "output.h5")
    names = sorted(path.name for path in folder.iterdir())
    return names, [shard.content for shard in cache.verify()]


def run_result(folder: Path) -> Any:
    found = files(folder / "output.h5")
    for name in ("metrics.jsonl", "curves.png", "train.log"):  # have speeds and times
        del found[name]
    return found, metrics(folder / "output.h5")


def test_after_an_error_of_any_call_the_next_run_ends_as_if_nothing_had_been(
    stage: Stage, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(name: str) -> Any:
        return run(stage.command, *stage.arguments, tmp_path / name / "output.h5")

    (tmp_path / "undisturbed").mkdir()
    with monkeypatch.context() as patch:
        undisturbed = Faults(patch, tmp_path, reads=True)
        assert start("undisturbed").status == 0
    expected = stage.result(tmp_path / "undisturbed")
    count = len(undisturbed.calls)
    chosen = range(count) if FEW is None else np.linspace(0, count - 1, FEW).astype(int).tolist()
    statuses = []
    for turn, at in enumerate(chosen):
        error = ERRORS[turn % len(ERRORS)]
        (tmp_path / str(at)).mkdir()
        with monkeypatch.context() as patch:
            faults = Faults(patch, tmp_path, at=at, error=error, lasting=turn % 8 < 4, reads=True)
            failed = start(str(at))
        what = f"{faults.calls[-1]} failed with {os.strerror(error)}: {failed.err}"
        statuses.append(failed.status)
        assert failed.status in (0, 2), what
        assert "Traceback" not in failed.err, what
        if failed.status:
            assert failed.err.splitlines()[-1].startswith(f"clipcap-{stage.command}: "), what
        again = start(str(at))
        assert again.status == 0, f"{what}\n{again.err}"
        assert stage.result(tmp_path / str(at)) == expected, what
        shutil.rmtree(tmp_path / str(at))
    assert statuses.count(2) > len(chosen) // 3
