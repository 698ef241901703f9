"""`clipcap-demo` runs the three commands offline, continues after a stop, and judges captions as they deserve."""

import json
import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from clipcap.caption.demo.report import Trial
from clipcap.data.demo import dataset
from clipcap.data.demo.judge import ATTRIBUTES
from clipcap.data.demo.scenes import Group, Scene
from small_world import DEMO_IMAGES, command_line


def test_the_demo_shows_the_commands_that_it_runs(demo_run: Any) -> None:
    commands = [line for line in demo_run[1].stderr.splitlines() if line.startswith("$ ")]
    assert commands[0] == "$ clipcap-precompute out/scenes -o out/cache.h5 --encoder demo --tokenizer demo"
    assert commands[1].startswith("$ clipcap-train out/cache.h5 -o out/checkpoints --lm demo ")
    assert commands[2] == ("$ clipcap-caption out/scenes/val2017/000000000017.jpg --model out/checkpoints/best")
    assert all(command.startswith("$ clipcap-caption ") for command in commands[2:])


def test_the_last_line_and_the_table_are_what_the_judge_says(demo_run: Any) -> None:
    folder, done = demo_run
    lines = done.stdout.splitlines()
    figure = re.fullmatch(r"demo: (\d+\.\d)% of 40 held-out scenes right", lines[-1])
    assert figure is not None, lines[-1]
    told = [json.loads(line)["caption"] for line in (folder / "held-out.jsonl").read_text().splitlines()]
    trial = Trial("", [dataset.make_scene(number) for number in dataset.held_out(DEMO_IMAGES)], told)
    assert figure[1] == f"{trial.percent_right:.1f}"
    assert f"out/scenes/val2017/000000000017.jpg: {told[0]}" in done.stdout
    table = {words[0]: words[1:] for words in map(str.split, lines) if len(words) == 4}
    assert {*ATTRIBUTES, "everything"} <= set(table)
    assert table["everything"][0] == figure[1]
    for attribute in ATTRIBUTES:
        assert table[attribute][0] == f"{trial.percent_of(attribute):.1f}"


def test_the_contact_sheet_shows_images(demo_run: Any) -> None:
    with Image.open(demo_run[0] / "captions.png") as sheet:
        assert sheet.width > 1000
        assert sheet.height > 1000
        assert sheet.convert("RGB").getcolors(10_000) is None  # images have more colours than that


def test_a_second_demo_continues_the_first(
    demo_run: Any, tmp_path: Path, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, first = demo_run
    shutil.copytree(folder, tmp_path / "out", ignore=shutil.ignore_patterns("new-pairs*"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("clipcap.caption.demo.run._NEW_PAIRS", 24)  # 500 take most of the time, and are not in question
    done = run("demo", "out", "--images", DEMO_IMAGES)
    assert done.status == 0, done.err
    assert "cache.h5 is finished already" in done.err
    assert "--resume" in done.err
    assert done.out.splitlines()[-1] == first.stdout.splitlines()[-1]


def test_only_dataset_draws_images_and_nothing_else(tmp_path: Path, run: Any) -> None:
    result = run("demo", "--only-dataset", tmp_path / "scenes", "--images", 36)
    assert (result.status, result.out) == (0, f"{tmp_path}/scenes\n")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["scenes"]
    assert len(list((tmp_path / "scenes/train2017").iterdir())) == 34


def test_the_demo_ends_with_the_status_of_the_command_that_failed(tmp_path: Path, run: Any) -> None:
    (tmp_path / "demo/cache.h5").mkdir(parents=True)
    result = run("demo", tmp_path / "demo", "--images", 36)
    assert result.status == 2
    assert result.out == ""
    assert "clipcap-precompute: " in result.err.splitlines()[-1]


def test_a_folder_that_cannot_be_made(tmp_path: Path, run: Any) -> None:
    (tmp_path / "file").write_text("")
    result = run("demo", tmp_path / "file", "--images", 36)
    assert result.status == 2
    assert "file/" in result.err
    assert "Not a directory" in result.err


@pytest.mark.slow
def test_ctrl_c_reaches_the_command_and_waits_for_it(tmp_path: Path) -> None:
    arguments = command_line("demo", [tmp_path / "demo", "--images", 180])
    process = subprocess.Popen(
        arguments,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    while not (tmp_path / "demo/checkpoints/run.json").exists():
        assert process.poll() is None
        time.sleep(0.05)
    time.sleep(0.5)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does it
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130
    assert err.splitlines()[-2:] == ["clipcap-train: interrupted", "clipcap-demo: interrupted"]
    assert (tmp_path / "demo/checkpoints/last/model.safetensors").exists()


def test_percentages() -> None:
    star, heart = Group(2, "small", "blue", "star"), Group(1, "large", "red", "heart")
    trial = Trial(
        "three",
        [Scene("sand", star), Scene("sand", star, "above", heart), Scene("snow", heart)],
        [
            "Two small blue stars on sand.",
            "A large red heart above a pair of tiny blue stars on sand.",
            "A large red star in the snow.",
        ],
    )
    assert trial.right == [True, False, False]
    assert trial.percent_right == pytest.approx(100 / 3)
    assert trial.percent_of("relation") == pytest.approx(200 / 3)
    assert trial.percent_of("shape") == pytest.approx(200 / 3)
    assert trial.percent_of("count") == 100
