"""`--config` and `--preset`: the command line wins over the file, the file over the preset."""

import json
from pathlib import Path
from typing import Any

import pytest

from clipcap.data.command.presets import PRESETS


def settings(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "run.json").read_text())["settings"]
    return found


@pytest.fixture
def options(small_cache: Path, lm_folder: Path) -> list[Any]:
    return [small_cache, "--lm", lm_folder, "--epochs", 1, "--device", "cpu", "--precision", "fp32"]


def test_the_command_line_wins_over_the_file_and_the_file_over_the_preset(
    tmp_path: Path, run: Any, options: list[Any]
) -> None:
    (tmp_path / "run.toml").write_text('preset = "visual-tokens"\nlr = 0.5e-3\nprefix-length = 3\ntune = "from:1"\n')
    arguments = [*options, "-o", tmp_path / "run", "--config", tmp_path / "run.toml"]
    result = run("train", *arguments, "--prefix-length", 4)
    assert result.status == 0, result.err
    found = settings(tmp_path / "run")
    assert (found["mapper"], found["schedule"], found["subset"]) == ("linear", "constant", 0.4)  # the preset
    assert (found["lr"], found["tune"]) == (0.5e-3, "from:1")  # the file
    assert found["prefix_length"] == 4  # the command line
    assert found["epochs"] == 1
    # The same again goes on with the same run; another value is another run.
    assert run("train", *arguments, "--prefix-length", 4, "--resume").status == 0
    assert "was started with --prefix-length 4, not 3" in run("train", *arguments, "--resume").err


def test_a_preset_on_the_command_line_wins_over_one_in_the_file(tmp_path: Path, run: Any, options: list[Any]) -> None:
    (tmp_path / "c.toml").write_text('preset = "visual-tokens"\n')
    both = ["--config", tmp_path / "c.toml"], ["--preset", "clipcap-mlp"]
    for i, order in enumerate(([*both[0], *both[1]], [*both[1], *both[0]])):
        assert run("train", *options, "-o", tmp_path / str(i), *order).status == 0
        found = settings(tmp_path / str(i))
        assert (found["mapper"], found["subset"], found["schedule"]) == ("mlp", 1.0, "linear")


def test_a_json_file_may_hold_every_option(tmp_path: Path, run: Any, options: list[Any]) -> None:
    cache, _, lm, *_ = options
    content = {"cache": str(cache), "output": str(tmp_path / "run"), "lm": str(lm), "epochs": 1, "device": "cpu"}
    (tmp_path / "run.json").write_text(json.dumps({**content, "tanh": False, "mapper": "linear", "batch-size": 7}))
    result = run("train", "--config", tmp_path / "run.json")
    assert result.status == 0, result.err
    assert (settings(tmp_path / "run")["tanh"], settings(tmp_path / "run")["batch_size"]) == (False, 7)


@pytest.mark.parametrize(
    ("name", "text", "fact"),
    [
        ("c.toml", "learning-rat = 1", "'learning-rat'"),
        ("c.toml", "batchsize = 1", "the nearest is batch_size"),
        ("c.toml", "epochs = 'three'", "Invalid value for '--epochs': Input should be a valid integer"),
        ("c.toml", "lr = ", "Invalid value"),
        ("c.json", "[1]", "a list"),
        ("c.toml", 'preset = "clipcap"', "the nearest is clipcap-mlp"),
    ],
)
def test_a_wrong_file_is_an_error_that_names_the_key_or_the_value(
    tmp_path: Path, run: Any, options: list[Any], name: str, text: str, fact: str
) -> None:
    (tmp_path / name).write_text(text)
    result = run("train", *options[:1], "-o", tmp_path / "run", "--config", tmp_path / name)
    assert result.status == 2
    assert fact in result.err
    assert len(result.err.splitlines()) == 1
    assert run("train", *options[:1], "--config", tmp_path / "none.toml").status == 2


@pytest.mark.parametrize("preset", PRESETS)
def test_both_stages_take_every_preset(tmp_path: Path, run: Any, coco: Path, preset: str) -> None:
    assert run("precompute", coco, "--dry-run", "--preset", preset).status == 0
    assert "does not exist" in run("train", tmp_path / "none.h5", "--preset", preset).err


def test_stage_1_takes_the_encoder_of_a_preset(tmp_path: Path, run: Any, coco: Path) -> None:
    result = run("precompute", coco, "-o", tmp_path / "c.h5", "--preset", "clipxgpt-large", "--pretrained", "none.pt")
    assert result.status == 2
    assert "--pretrained none.pt is neither a file nor a tag of ViT-L-14" in result.err
