"""Stage 1 on a dataset behind a URL: the same cache as from a folder, and nothing of the URL in it."""

from pathlib import Path
from typing import Any

import pytest

from clipcap.data.cache.index import Cache
from clipcap.precompute import PrecomputeSettings, precompute
from remote_hub import Hub


@pytest.fixture
def options(clip_folder: Path, tokenizer_folder: Path) -> list[object]:
    return [
        *("--encoder", clip_folder, "--tokenizer", tokenizer_folder, "--precision", "fp32"),
        *("--batch-size", 4, "--workers", 2, "--device", "cpu", "--shard-size", 7),
    ]


def contents(cache: Path) -> list[str]:
    return [shard.content for shard in Cache.open(cache).shards]


def test_the_cache_is_that_of_the_folder_and_is_finished(
    coco: Path, tmp_path: Path, run: Any, options: list[object], hub: type[Hub]
) -> None:
    hub.add(coco, "datasets/me/coco")
    assert run("precompute", coco, "-o", tmp_path / "local.h5", *options).status == 0
    result = run("precompute", "hf://datasets/me/coco", "-o", tmp_path / "remote.h5", *options)
    assert result.status == 0, result.err
    assert "hf://datasets/me/coco: coco, 17 images (12 train, 5 val), 48 captions; loading" in result.err
    assert str(tmp_path / "mirrors") not in result.err
    assert contents(tmp_path / "remote.h5") == contents(tmp_path / "local.h5")
    assert hub.requests == dict.fromkeys(hub.files, 1)
    again = run("precompute", "hf://datasets/me/coco/", "-o", tmp_path / "remote.h5", *options)
    assert (again.status, again.out) == (0, result.out)
    assert "finished already" in again.err
    images = {name for name in hub.files if name.endswith(".jpg")}
    assert all(hub.requests[name] == (1 if name in images else 2) for name in hub.files)


def test_an_image_that_cannot_be_fetched_is_skipped_and_its_secrets_are_not_recorded(
    coco: Path, tmp_path: Path, run: Any, options: list[object], hub: type[Hub]
) -> None:
    hub.add(coco, "coco")
    lost = "train2017/000000000103.jpg"
    hub.failures[f"coco/{lost}"] = [ConnectionError("timed out: https://me:secret@cdn/x?Signature=secret")] * 3
    result = run("precompute", "hub://coco", "-o", tmp_path / "c.h5", *options)
    assert result.status == 0, result.err
    assert "16 images" in result.out
    listed = run("inspect", tmp_path / "c.h5")
    assert f"{lost}: timed out: https://cdn/x" in listed.out
    files = list(tmp_path.glob("c*.h5"))
    assert len(files) == 4
    assert not any(b"secret" in file.read_bytes() for file in files)
    assert "secret" not in result.err + listed.out


def test_dry_run_prints_what_is_behind_the_url(coco: Path, tmp_path: Path, run: Any, hub: type[Hub]) -> None:
    hub.add(coco, "coco")
    result = run("precompute", "hub://coco", "--dry-run")
    assert result.out == run("precompute", coco, "--dry-run").out
    assert not any(name.endswith(".jpg") for name in hub.requests)


def test_a_url_that_cannot_be_read_is_one_line(tmp_path: Path, run: Any, hub: type[Hub]) -> None:
    result = run("precompute", "hub://nowhere", "-o", tmp_path / "c.h5")
    fact = "hub://nowhere does not exist, or is private; check the URL, or sign in"
    assert (result.status, result.out, result.err.strip()) == (2, "", f"clipcap-precompute: {fact}")
    assert not list(tmp_path.glob("c*"))


@pytest.mark.parametrize("engine", ["local", "ray"])
@pytest.mark.parametrize("output", ["s3://key:secret@bucket/c.h5", "file:///c.h5", "memory://c.h5"])
def test_a_url_as_output_is_refused_before_anything_is_made(
    tmp_path: Path, run: Any, monkeypatch: pytest.MonkeyPatch, engine: str, output: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.jpg").touch()
    fact = f"--output is a URL ({output.partition(':')[0]}://...), and caches are written to folders; give a file in a "
    result = run("precompute", ".", "-o", output, "--engine", engine)
    assert (result.status, result.out) == (2, "")
    assert result.err == f"clipcap-precompute: {fact}folder, and copy the index and its shards from there\n"
    assert [path.name for path in tmp_path.iterdir()] == ["a.jpg"]


def test_python_takes_a_url_as_text(
    coco: Path, tmp_path: Path, clip_folder: Path, tokenizer_folder: Path, hub: type[Hub]
) -> None:
    hub.add(coco, "coco")
    settings = PrecomputeSettings(encoder=str(clip_folder), tokenizer=str(tokenizer_folder), device="cpu")
    assert precompute("hub://coco", tmp_path / "c.h5", settings).images == 17
