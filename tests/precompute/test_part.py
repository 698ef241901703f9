"""Several runs make the parts of one cache, which is then the cache of a single run."""

from pathlib import Path
from typing import Any

import pytest
from runs import files

from clipcap.data.cache.index import Cache
from clipcap.data.errors import UsageError
from clipcap.precompute.output import Output
from clipcap.precompute.part import WHOLE, Part
from small_world import make_coco, small_models

Options = list[object]


@pytest.fixture
def options(clip_folder: Path, tokenizer_folder: Path, tmp_path: Path) -> Options:
    make_coco(tmp_path / "coco")  # 17 images, 5 shards
    return [tmp_path / "coco", *small_models(clip_folder, tokenizer_folder), "--shard-size", 4]


@pytest.mark.parametrize("order", [(1, 2, 3), (3, 1, 2)])
@pytest.mark.parametrize("tokenizer", [(), ("--tokenizer", "new:300")])
def test_parts_in_any_order_make_the_files_of_a_single_run(
    tmp_path: Path, run: Any, options: Options, order: tuple[int, ...], tokenizer: tuple[str, ...]
) -> None:
    assert run("precompute", *options, *tokenizer, "-o", tmp_path / "whole/c.h5").status == 0
    shards = {1: 2, 2: 2, 3: 1}  # shards 0 and 3, 1 and 4, 2
    for count, number in enumerate(order, start=1):
        assert not (tmp_path / "parts/c.h5").exists()
        result = run("precompute", *options, *tokenizer, "-o", tmp_path / "parts/c.h5", "--part", f"{number}/3")
        assert result.status == 0, result.err
        if count < 3:
            assert f"part {number}/3 is done" in result.err
            assert f"{shards[number]} shard" in result.out
    tokens = Cache.open(tmp_path / "parts/c.h5").tokens
    facts = f"17 images, 48 captions, {tokens:,} tokens, 5 shards, width 16"
    assert result.out == f"{tmp_path}/parts/c.h5: {facts}\n"
    assert files(tmp_path / "parts") == files(tmp_path / "whole")
    again = run("precompute", *options, *tokenizer, "-o", tmp_path / "parts/c.h5", "--part", "2/3")
    assert "finished already" in again.err


def test_a_part_continues_and_leaves_the_shards_of_others_alone(tmp_path: Path, run: Any, options: Options) -> None:
    command = ["precompute", *options, "-o", tmp_path / "c.h5", "--part"]
    assert run(*command, "2/2").status == 0
    assert sorted(path.name for path in tmp_path.glob("c*.h5")) == ["c-00001.h5", "c-00003.h5"]
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("c*.h5")}
    result = run(*command, "2/2")
    assert "continuing: 2 of 2 shards (8 of 8 images) exist" in result.err
    assert run(*command, "1/2").status == 0
    assert Cache.open(tmp_path / "c.h5").images == 17
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_more_parts_than_shards_leave_some_with_nothing_to_do(tmp_path: Path, run: Any, options: Options) -> None:
    result = run("precompute", *options, "-o", tmp_path / "c.h5", "--part", "7/7")
    assert result.status == 0
    assert "0 images, 0 captions, 0 tokens, 0 shards" in result.out


@pytest.mark.parametrize("other", ["--overwrite", "--repair", "--retokenize"])
def test_what_is_for_the_whole_cache_is_refused_for_a_part(
    tmp_path: Path, run: Any, options: Options, other: str
) -> None:
    result = run("precompute", *options, "-o", tmp_path / "c.h5", "--part", "1/2", other)
    assert result.status == 2
    assert f"{other} is for the whole cache" in result.err


@pytest.mark.parametrize("text", ["0/2", "3/2", "1", "a/b", "1/0", "-1/2"])
def test_what_is_no_part_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="`part` "):
        Part.of(text)


def test_a_part_has_every_nth_shard() -> None:
    assert [shard for shard in range(10) if Part.of("2/3").has(shard)] == [1, 4, 7]
    assert all(WHOLE.has(shard) for shard in range(10))


def test_parts_with_other_settings_are_told_that_they_do_not_count(
    tmp_path: Path, run: Any, options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["precompute", *options, "-o", tmp_path / "c.h5"]
    assert run(*command, "--part", "1/2").status == 0
    shards = {path: path.rename(path.with_suffix(".aside")) for path in tmp_path.glob("c-*.h5")}
    assert run(*command, "--part", "2/2", "--batch-size", 3).status == 0  # started before there was a shard
    for path, aside in shards.items():
        aside.rename(path)
    result = run(*command, "--part", "1/2", "--batch-size", 3)
    assert result.status == 2
    assert "batch_size: 4, not 3" in result.err
    # Where the shards of the other part come only while this one runs, it ends, and says so.
    monkeypatch.setattr(Output, "check_recipe", lambda *_, **__: None)
    result = run(*command, "--part", "2/2", "--batch-size", 3)
    assert result.status == 0
    assert "c-00000.h5 does not count: batch_size: 3, not 4; give all parts the same settings" in result.err
    assert not (tmp_path / "c.h5").exists()


def test_a_shard_of_another_part_that_is_gone_is_waited_for(tmp_path: Path, run: Any, options: Options) -> None:
    command = ["precompute", *options, "-o", tmp_path / "c.h5"]
    assert run(*command).status == 0
    (tmp_path / "c-00001.h5").unlink()
    result = run(*command, "--part", "1/2")
    assert result.status == 0
    assert "part 1/2 is done" in result.err
    assert run(*command, "--part", "2/2").status == 0
    assert Cache.open(tmp_path / "c.h5").images == 17


def test_a_part_and_the_whole_exclude_each_other(tmp_path: Path) -> None:
    output = Output(tmp_path / "c.h5")
    with output.lock(Part(1, 2)), output.lock(Part(2, 2)):
        for part in (WHOLE, Part(1, 2)):
            with pytest.raises(UsageError, match="is in use by process"), output.lock(part):
                pass
        with output.lock_index(), pytest.raises(UsageError, match=r"the index .* is in use"), output.lock_index():
            pass
    with output.lock(), pytest.raises(UsageError, match="is in use by process"), output.lock(Part(1, 2)):
        pass
    assert list(tmp_path.iterdir()) == []
