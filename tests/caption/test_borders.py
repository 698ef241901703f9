"""What a command says when it is given something that is no model, no config or no file."""

import os
from pathlib import Path
from typing import Any

import pytest


@pytest.mark.parametrize("place", [".", "/", ".."])
@pytest.mark.parametrize(
    ("command", "arguments"),
    [("caption", ["--model"]), ("inspect", []), ("inspect", ["--verify"]), ("inspect", ["--doctor"])],
)
def test_a_folder_without_a_model_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Any, place: str, command: str, arguments: list[str]
) -> None:
    (tmp_path / "a").mkdir()
    monkeypatch.chdir(tmp_path / "a")
    inputs = ["x.jpg"] if command == "caption" else []
    result = run(command, *inputs, *arguments, place)
    assert (result.status, len(result.err.splitlines())) == (2, 1)
    assert f"there is no model at {place};" in result.err


@pytest.mark.parametrize("option", ["--config", "--model", "-o"])
def test_a_name_that_is_too_long_is_one_line(tmp_path: Path, run: Any, option: str) -> None:
    result = run("caption", tmp_path, option, tmp_path / ("x" * 300))
    assert result.status == 2
    assert len(result.err.splitlines()) == 1
    assert "File name too long" in result.err or "does not exist" in result.err or "no model" in result.err


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs a system with FIFOs")
def test_a_config_that_is_a_fifo_a_device_or_a_folder_is_named(tmp_path: Path, run: Any) -> None:
    os.mkfifo(tmp_path / "fifo.toml")
    for place, what in ((tmp_path / "fifo.toml", "a FIFO"), (Path("/dev/zero"), "a device"), (tmp_path, "a folder")):
        result = run("train", "cache.h5", "--config", place)
        assert result.status == 2
        assert result.err.startswith(f"clipcap-train: --config {place} cannot be read ({what}, not a file);")


@pytest.mark.parametrize(("name", "text"), [("a.json", "[" * 100_000), ("a.toml", "a=" + "[" * 100_000)])
def test_a_config_nested_deep_is_one_line(tmp_path: Path, run: Any, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    result = run("train", "cache.h5", "--config", tmp_path / name)
    assert (result.status, len(result.err.splitlines())) == (2, 1)
    assert "is nested more than 64 deep" in result.err


@pytest.mark.parametrize("value", ['{"a" = 1}', "[1, 2]", "1979-05-27", "nan", "12345678901234567890123"])
@pytest.mark.parametrize("name", ["epochs", "lr", "mapper", "output", "resume"])
def test_a_value_of_another_type_in_a_config_is_one_line(tmp_path: Path, run: Any, name: str, value: str) -> None:
    (tmp_path / "a.toml").write_text(f"{name} = {value.replace(chr(34) + 'a' + chr(34), 'a')}")
    result = run("train", tmp_path / "cache.h5", "--config", tmp_path / "a.toml")
    assert (result.status, len(result.err.splitlines())) == (2, 1)
