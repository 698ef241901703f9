"""Archives of every released format still open. `make.py` wrote each one when its format was new."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from clipcap.caption import Captioner
from clipcap.data.cache.index import Cache
from clipcap.data.cache.shard import read_shard, read_summary, write_shard

ARCHIVES = sorted(Path(__file__).parent.glob("format-*"))


@pytest.fixture(params=ARCHIVES, ids=lambda path: str(path.name))
def archive(request: pytest.FixtureRequest) -> Path:
    assert isinstance(request.param, Path)
    return request.param


def test_every_format_has_an_archive() -> None:
    assert [path.name for path in ARCHIVES] == ["format-1", "format-2"]


def test_a_cache_reads_as_it_did_when_it_was_made(archive: Path) -> None:
    expected = json.loads((archive / "expected.json").read_text(encoding="utf-8"))
    cache = Cache.open(archive / "cache.h5")
    assert [cache.images, cache.captions, cache.tokens] == expected["counts"]
    assert [shard.content for shard in cache.verify()] == expected["contents"]
    tables = list(cache.tables())
    assert [path for table in tables for path in table.path] == expected["paths"]
    assert [text for table in tables for text in table.text] == expected["texts"]
    assert tables[0].token[: tables[0].first_token[1]].tolist() == expected["tokens"]
    assert tables[0].embedding[0, :8].tolist() == expected["embedding"]
    failed = [list(failure) for shard in cache.shards for failure in read_summary(shard.path)[1]]
    assert failed == expected["failures"]


def test_a_cache_may_have_shards_of_this_format_and_of_an_older_one(archive: Path, tmp_path: Path) -> None:
    for file in archive.glob("*.h5"):
        shutil.copy(file, tmp_path)
    before = [shard.content for shard in Cache.open(tmp_path / "cache.h5").shards]
    shard = tmp_path / "cache-00000.h5"
    tables, fingerprint = read_shard(shard), Cache.open(shard).fingerprint
    assert write_shard(shard, tables, fingerprint.to_json(), 0) == before[0]
    assert [shard.content for shard in Cache.open(tmp_path / "cache.h5").verify()] == before


def test_a_checkpoint_captions_as_it_did_when_it_was_made(archive: Path) -> None:
    expected = json.loads((archive / "expected.json").read_text(encoding="utf-8"))
    table = next(Cache.open(archive / "cache.h5").tables())
    captioner = Captioner.from_checkpoint(archive / "checkpoint", device="cpu", precision="fp32")
    assert captioner(table.embedding) == expected["captions"]
    assert captioner.score(table.embedding[:1], table.text[:1])[0] == pytest.approx(expected["losses"], abs=1e-4)


def test_every_command_reads_an_archive(archive: Path, run: Any, tmp_path: Path) -> None:
    described = run("inspect", archive / "cache.h5", "--verify")
    assert described.status == 0
    assert described.out.startswith(f"kind: cache, {archive.name.replace('-', ' ')}\n")
    assert run("inspect", archive / "checkpoint").status == 0
    trained = run("train", archive / "cache.h5", "-o", tmp_path / "run", "--lm", "demo", "--epochs", 1)
    assert trained.status == 0, trained.err
    result = run("caption", archive / "cache.h5", "--model", archive / "checkpoint", "--device", "cpu", "--jsonl")
    assert result.status == 0, result.err
    assert len(result.out.splitlines()) == 35
