"""`-o FILE`: only captions are replaced, and an interrupted run continues to the bytes of an uninterrupted one."""

import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clipcap.caption import captions_file
from clipcap.caption.inputs import Inputs
from clipcap.caption.outputs import FORMATS, Layout
from clipcap.data.lock import hold_lock
from small_world import Crash, spawn


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """Seven embeddings, which are captioned two at a time by the options of `model`."""
    np.save(tmp_path / "rows.npy", np.random.default_rng(0).normal(size=(7, 16)).astype(np.float32))
    return tmp_path / "rows.npy"


@pytest.fixture
def model(trained: Path) -> list[object]:
    return ["--model", trained / "best", "--device", "cpu", "--batch-size", 2]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def crash_at_result(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """Let the program die after `count` results, before it takes note of the next one."""
    done = captions_file._CaptionsFile.done
    made = 0

    def counted(self: Any, model: int, number: int) -> None:
        nonlocal made
        if made == count:
            self._file.write(b'{"half a rec')  # which the file system has already
            raise Crash
        made += 1
        done(self, model, number)

    monkeypatch.setattr(captions_file._CaptionsFile, "done", counted)


@pytest.mark.parametrize("name", ["cache-00001.h5", "photo.png", "best/config.json", "best/model.safetensors"])
def test_other_files_are_never_replaced(tmp_path: Path, run: Any, trained: Path, rows: Path, name: str) -> None:
    shutil.copytree(trained / "best", tmp_path / "best")
    for other in ("cache-00001.h5", "photo.png"):
        (tmp_path / other).write_bytes(b"work")
    before = (tmp_path / name).read_bytes()
    form = [] if name.endswith(".json") else ["--jsonl"]
    result = run("caption", rows, "--model", tmp_path / "best", *form, "-o", tmp_path / name)
    assert result.status == 2
    assert str(tmp_path / name) in result.err and "--output" in result.err
    assert (tmp_path / name).read_bytes() == before


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("notes.txt", "buy milk\n"),
        ("dog.txt", "A dog runs over the wet grass.\n"),
        ("list.csv", "image,caption\na.jpg,A dog\n"),
        ("list.csv", "input,caption,checked\na.jpg,A dog,yes\n"),
        ("more.csv", "input,caption\na.jpg,A dog,yes\n"),
        ("x.json", '[\n{"input": "a.jpg", "caption": "A dog", "checked": true}\n]\n'),
        ("x.json", '{"input": "a.jpg"}\n'),
        ("x.jsonl", '{"input": "a.jpg", "caption": "A dog"}\n{"input": "b.jpg"}\n'),
        ("x.jsonl", '{"input": "a.jpg", "caption": "A dog"}\nand a note of mine\n'),
        ("table.txt", "input   caption\na.jpg   a longer line than the header\n"),
        ("run.py", "print('rows.npy[0]: ')\n"),
        ("bytes.txt", "\x00" * 100),
    ],
)
def test_a_text_that_is_not_captions_is_never_replaced(
    tmp_path: Path, run: Any, model: list[object], rows: Path, name: str, content: str
) -> None:
    (tmp_path / name).write_text(content)
    result = run("caption", rows, *model, "-o", tmp_path / name)
    assert result.status == 2
    assert str(tmp_path / name) in result.err
    assert (tmp_path / name).read_text() == content
    assert names(tmp_path) == sorted([name, "rows.npy"])


@pytest.mark.parametrize(
    "options", [[], ["--table"], ["--json"], ["--jsonl", "-n", 2, "--beams", 3], ["--csv", "-n", 2, "--beams", 3]]
)
def test_captions_of_every_format_are_replaced(
    tmp_path: Path, run: Any, model: list[object], small_cache: Path, options: list[object]
) -> None:
    command = ["caption", small_cache, *model, "--split", "val", "-o", tmp_path / "captions.out"]
    (tmp_path / "captions.out").write_text("")
    assert run(*command, *options).status == 0
    first = (tmp_path / "captions.out").read_text()
    assert run(*command, "--jsonl").status == 0
    assert run(*command, *options).status == 0
    assert (tmp_path / "captions.out").read_text() == first
    assert names(tmp_path) == ["captions.out"]


def test_captions_of_several_models_are_replaced(tmp_path: Path, run: Any, trained: Path, rows: Path) -> None:
    both = ["--model", trained / "best", "--model", trained / "last", "--device", "cpu"]
    for form in ("txt", "json", "jsonl", "csv"):
        for _ in range(2):
            assert run("caption", rows, *both, "-o", tmp_path / f"x.{form}").status == 0


def write_results(output: Path, rows: Path, form: str) -> list[int]:
    """Write the results of two models and seven rows, from where an interrupted run stopped; return their numbers."""
    written = []
    with captions_file.open_output(output, {"format": form}, Inputs([rows])) as out:
        writer = FORMATS[form](out.stream, Layout(several_models=True, resumed=out.resumed))
        for number in range(7 * out.model + out.start, 14):
            writer.write(f"rows.npy[{number % 7}]", [f"caption {number}"], f"model {number // 7}")
            out.done(number // 7, number % 7)
            written.append(number)
        writer.close()
    return written


@pytest.mark.parametrize("form", ["text", "table", "json", "jsonl", "csv"])
def test_a_run_killed_at_any_result_continues_to_the_same_file(
    tmp_path: Path, rows: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    output = tmp_path / "killed"
    assert write_results(tmp_path / "whole", rows, form) == list(range(14))
    for count in range(14):
        with monkeypatch.context() as patch, pytest.raises(Crash):
            crash_at_result(patch, count)
            write_results(output, rows, form)
        assert not output.exists()
        assert write_results(output, rows, form) == list(range(count, 14))
        assert output.read_bytes() == (tmp_path / "whole").read_bytes()
        assert names(tmp_path) == ["killed", "rows.npy", "whole"]
        output.unlink()


@pytest.mark.parametrize("count", [3, 9])
def test_a_killed_command_continues_within_a_batch_and_a_model(
    tmp_path: Path, run: Any, trained: Path, rows: Path, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    models = ["--model", trained / "best", "--model", trained / "last", "--device", "cpu", "--batch-size", 2]
    assert run("caption", rows, *models, "--json", "-o", tmp_path / "whole").status == 0
    with monkeypatch.context() as patch, pytest.raises(Crash):
        crash_at_result(patch, count)
        run("caption", rows, *models, "--json", "-o", tmp_path / "killed")
    assert run("caption", rows, *models, "--json", "-o", tmp_path / "killed").status == 0
    assert (tmp_path / "killed").read_bytes() == (tmp_path / "whole").read_bytes()


def test_a_run_that_is_killed_twice_and_meets_a_damaged_image_continues(
    tmp_path: Path, run: Any, model: list[object], small_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "images"
    shutil.copytree(small_cache.parent / "coco/train2017", folder)
    for number in (101, 106, 112):
        (folder / f"{number:012d}.jpg").write_text("no image")
    assert run("caption", folder, *model, "--jsonl", "-o", tmp_path / "whole").status == 0
    for count in (2, 3):
        with monkeypatch.context() as patch:
            crash_at_result(patch, count)
            with pytest.raises(Crash):
                run("caption", folder, *model, "--jsonl", "-o", tmp_path / "killed")
    assert run("caption", folder, *model, "--jsonl", "-o", tmp_path / "killed").status == 0
    assert (tmp_path / "killed").read_bytes() == (tmp_path / "whole").read_bytes()


@pytest.mark.slow
def test_ctrl_c_keeps_the_captions_and_the_same_command_continues(
    tmp_path: Path, run: Any, trained: Path, model: list[object]
) -> None:
    np.save(tmp_path / "rows.npy", np.random.default_rng(0).normal(size=(500, 16)).astype(np.float32))
    options = [tmp_path / "rows.npy", *model, "-o", tmp_path / "x.csv"]
    process = spawn("caption", *options)
    partial = tmp_path / "x.csv.partial"
    while process.poll() is None and not (partial.exists() and partial.stat().st_size > 1000):
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate()
    assert process.returncode == 130
    assert str(partial) in err
    assert not (tmp_path / "x.csv").exists()
    kept = partial.read_bytes()
    again = run("caption", *options)
    assert again.status == 0
    assert str(partial) in again.err
    assert (tmp_path / "x.csv").read_bytes().startswith(kept)
    assert len((tmp_path / "x.csv").read_text().splitlines()) == 501
    assert names(tmp_path) == ["rows.npy", "x.csv"]


def test_captions_are_replaced_only_when_all_new_ones_are_there(
    tmp_path: Path, run: Any, model: list[object], rows: Path
) -> None:
    np.save(tmp_path / "bad.npy", np.full((2, 16), np.inf, dtype=np.float32))
    output, partial = tmp_path / "captions.jsonl", tmp_path / "captions.jsonl.partial"
    old = '{"input": "a.jpg", "caption": "An older caption."}\n'
    output.write_text(old)
    result = run("caption", rows, tmp_path / "bad.npy", *model, "-o", output)
    assert result.status == 2
    assert output.read_text() == old
    assert str(partial) in result.err
    assert len(partial.read_text().splitlines()) == 7
    np.save(tmp_path / "bad.npy", np.zeros((2, 16), dtype=np.float32))
    result = run("caption", rows, tmp_path / "bad.npy", *model, "-o", output)
    assert result.status == 2  # these are other inputs than those of the interrupted run
    assert output.read_text() == old


@pytest.mark.parametrize("change", [["--beams", 3], ["--batch-size", 3], ["--table"]])
def test_a_run_with_other_parameters_does_not_continue(
    tmp_path: Path, run: Any, model: list[object], rows: Path, monkeypatch: pytest.MonkeyPatch, change: list[object]
) -> None:
    output, partial = tmp_path / "captions.txt", tmp_path / "captions.txt.partial"
    with monkeypatch.context() as patch:
        crash_at_result(patch, 3)
        with pytest.raises(Crash):
            run("caption", rows, *model, "-o", output)
    before = partial.read_bytes()
    result = run("caption", rows, *model, *change, "-o", output)
    assert result.status == 2
    assert str(partial) in result.err
    assert partial.read_bytes() == before
    partial.unlink()
    assert run("caption", rows, *model, *change, "-o", output).status == 0


def test_a_retrained_model_does_not_continue(
    tmp_path: Path, run: Any, trained: Path, rows: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(trained / "best", tmp_path / "best")
    options = [rows, "--model", tmp_path / "best", "--device", "cpu", "-o", tmp_path / "x.csv"]
    with monkeypatch.context() as patch:
        crash_at_result(patch, 3)
        with pytest.raises(Crash):
            run("caption", *options)
    os.utime(tmp_path / "best/model.safetensors", (1, 1))
    result = run("caption", *options)
    assert result.status == 2
    assert "--model" in result.err


def test_what_a_person_changed_in_the_partial_file_is_never_lost(
    tmp_path: Path, run: Any, model: list[object], rows: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    partial = tmp_path / "x.csv.partial"
    with monkeypatch.context() as patch:
        crash_at_result(patch, 3)
        with pytest.raises(Crash):
            run("caption", rows, *model, "-o", tmp_path / "x.csv")
    partial.write_text("precious")
    assert run("caption", rows, *model, "-o", tmp_path / "x.csv").status == 2
    assert partial.read_text() == "precious"


@pytest.mark.parametrize("name", ["x.csv.partial", ".x.csv.journal"])
def test_what_is_at_a_temporary_name_is_neither_followed_nor_replaced(
    tmp_path: Path, run: Any, model: list[object], rows: Path, name: str
) -> None:
    (tmp_path / "target").write_text("precious")
    (tmp_path / name).symlink_to(tmp_path / "target")
    assert run("caption", rows, *model, "-o", tmp_path / "x.csv").status == 2
    assert (tmp_path / "target").read_text() == "precious"
    (tmp_path / name).unlink()
    (tmp_path / name).write_text("precious")
    assert run("caption", rows, *model, "-o", tmp_path / "x.csv").status == 2
    assert (tmp_path / name).read_text() == "precious"
    assert not (tmp_path / "x.csv").exists()


def test_a_link_as_output_is_followed(tmp_path: Path, run: Any, model: list[object], rows: Path) -> None:
    (tmp_path / "link.csv").symlink_to(tmp_path / "target.csv")
    for _ in range(2):
        assert run("caption", rows, *model, "-o", tmp_path / "link.csv").status == 0
    assert (tmp_path / "link.csv").is_symlink()
    assert len((tmp_path / "target.csv").read_text().splitlines()) == 8
    (tmp_path / "target.csv").write_text("precious")
    assert run("caption", rows, *model, "-o", tmp_path / "link.csv").status == 2
    assert (tmp_path / "target.csv").read_text() == "precious"


def test_two_runs_never_write_one_file(tmp_path: Path, run: Any, model: list[object], rows: Path) -> None:
    with hold_lock(tmp_path / ".x.csv.lock", "x.csv"):
        result = run("caption", rows, *model, "-o", tmp_path / "x.csv")
    assert result.status == 2
    assert str(os.getpid()) in result.err
    assert names(tmp_path) == ["rows.npy"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk_is_an_error_in_one_line(run: Any, model: list[object], rows: Path) -> None:
    result = run("caption", rows, *model, "-o", "/dev/full")
    assert result.status == 2
    assert "disk is full" in result.err
