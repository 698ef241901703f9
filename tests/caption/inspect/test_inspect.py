"""`clipcap-inspect`: the facts of a cache or a checkpoint, and whether it is whole."""

import json
import shutil
from pathlib import Path
from typing import Any

import h5py
import pytest

from clipcap.caption.inspect.describe import inspect
from clipcap.caption.inspect.export import export
from clipcap.data.errors import UsageError


def test_a_cache_is_described(run: Any, small_cache: Path) -> None:
    result = run("inspect", small_cache)
    assert result.status == 0
    assert result.out.startswith("kind: cache, format 2\nimages: 17\ncaptions: 48\n")
    assert "verified: no\n" in result.out
    assert "splits:\n  train: 12\n  val: 5\n" in result.out
    facts = json.loads(run("inspect", small_cache, "--json").out)
    assert facts["shards"] == 2
    assert facts["splits"] == {"train": 12, "val": 5}
    assert facts["fingerprint"]["width"] == 16
    assert facts["failures"] == []
    assert facts["verified"] is False


def test_verify_names_every_broken_shard(tmp_path: Path, run: Any, small_cache: Path) -> None:
    for path in small_cache.parent.glob("*.h5"):
        shutil.copy(path, tmp_path)
    result = run("inspect", tmp_path / "cache.h5", "--verify")
    assert result.status == 0
    assert "2 shards verified" in result.err
    with h5py.File(tmp_path / "cache-00001.h5", "r+") as file:
        file["captions/text/byte"][0] = ord("?")
    assert run("inspect", tmp_path / "cache.h5").status == 0
    result = run("inspect", tmp_path / "cache.h5", "--verify")
    assert result.status == 2
    assert "cache-00001.h5 is damaged" in result.err
    assert result.err.splitlines()[-1].startswith(
        f"clipcap-inspect: {tmp_path}/cache.h5: 1 of 2 shards broken: cache-00001.h5; make them again with"
    )
    (tmp_path / "cache-00000.h5").unlink()
    result = run("inspect", tmp_path / "cache.h5", "--verify")
    assert result.status == 2
    assert "2 of 2 shards broken: cache-00000.h5, cache-00001.h5" in result.err


def test_a_checkpoint_is_described(run: Any, trained: Path) -> None:
    facts = json.loads(run("inspect", trained, "--verify", "--json").out)
    assert facts["kind"] == "checkpoint, format 1"
    assert facts["mapper"]["kind"] == "mlp"
    assert facts["verified"] is True
    assert run("inspect", trained / "last").out.startswith("kind: checkpoint, format 1\n")


@pytest.mark.parametrize("name", ["nowhere.h5", "."])
def test_what_is_neither_a_cache_nor_a_checkpoint_is_an_error(tmp_path: Path, run: Any, name: str) -> None:
    result = run("inspect", tmp_path / name)
    assert (result.status, result.out, len(result.err.splitlines())) == (2, "", 1)
    assert str(tmp_path / name) in result.err


def test_the_library_gives_the_facts_that_the_command_prints(run: Any, small_cache: Path, trained: Path) -> None:
    for path in (small_cache, trained):
        assert json.loads(run("inspect", path, "--json").out) == json.loads(json.dumps(inspect(path)))


def test_export_writes_what_opens_again_and_replaces_nothing(tmp_path: Path, trained: Path) -> None:
    file = export(trained, "rmokady", tmp_path / "model.pt")
    assert inspect(file)["kind"] == "checkpoint of rmokady"
    with pytest.raises(UsageError, match=r"model\.pt exists"):
        export(trained, "rmokady", file)
    with pytest.raises(UsageError, match="jmisilo"):
        export(trained, "jmisilo", tmp_path / "other.pt")
