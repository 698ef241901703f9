"""A run's folder: a new run takes the place of an old one only with its first checkpoint, and one process trains in it.

A crash at any moment leaves the old run or the new one whole.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from runs import assert_same_run, files, interrupt_in, metrics

from clipcap.data.errors import CheckpointError, ClipCapError, UsageError
from clipcap.data.lock import hold_lock
from clipcap.train import loop
from clipcap.train.loop import Trainer
from clipcap.train.model.find import find_checkpoint
from clipcap.train.run.folder import RunFolder
from clipcap.train.run.trackers import TRACKERS
from clipcap.train.settings import TrainSettings
from small_world import Crash, crash_at

Options = list[object]
OLD = {
    "run.json": json.dumps({"settings": TrainSettings(lr=0.5).flat(), "cache": ["old"]}).encode(),
    "metrics.jsonl": b"{}\n",
    "train.log": b"old",
    "curves.png": b"old",
    "last/config.json": b"old last",
    "best/config.json": b"old best",
    "tensorboard/events.out.tfevents.1": b"old events",
}
LEFT = {".best.old/config.json": b"an older best", ".last.partial/config.json": b"half"}  # by killed runs


@pytest.fixture
def options(small_cache: Path, lm_folder: Path) -> Options:
    given = [small_cache, "--lm", lm_folder, "--epochs", 1, "--batch-size", 9, "--lr", 1e-2]
    return [*given, "--device", "cpu", "--precision", "fp32"]


def write(folder: Path, content: dict[str, bytes]) -> RunFolder:
    for name, data in content.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return RunFolder(folder)


def new_run(folder: RunFolder) -> None:
    """What a run does to its folder, up to a checkpoint after the first."""
    with folder.lock():
        folder.start(TrainSettings(), ["content"])
        folder.log({"step": 1})
        for name in ("best/config.json", "last/config.json", "tensorboard/events.out.tfevents.2"):
            write(folder.path, {name: b"new"})
        folder.checkpoint_made()
        folder.log({"step": 2})
        folder.checkpoint_made()


def test_a_crash_at_any_change_of_the_disk_leaves_the_old_run_or_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    new_run(write(tmp_path / "new", {}))
    new: dict[str, Any] = {**files(tmp_path / "new"), "metrics.jsonl": [b'{"step": 1}\n']}  # and perhaps a second line
    outcomes = []
    for count in range(1000):
        folder = write(tmp_path / str(count), {**OLD, "notes.txt": b"mine", **LEFT})
        crashed = False
        with monkeypatch.context() as patch:
            crash_at(patch, count)
            try:
                new_run(folder)
            except Crash:
                crashed = True
        stored = folder.stored()  # what it says before the recovery holds after it
        crashes_in_recovery = 0
        while crashed and crashes_in_recovery < 1000:  # recovery may crash too, at each of its changes
            with monkeypatch.context() as patch:
                crash_at(patch, crashes_in_recovery)
                try:
                    with folder.lock():
                        pass
                    break
                except Crash:
                    crashes_in_recovery += 1
        assert stored == folder.stored()
        found = files(folder.path)
        assert found.pop("notes.txt") == b"mine"
        line = found.get("metrics.jsonl", b"").splitlines(keepends=True)[:1]
        outcomes.append("old" if found == OLD else "new" if found | {"metrics.jsonl": line} == new else "mixed")
        if not crashed:
            break
    assert len(outcomes) > 10
    assert outcomes == sorted(outcomes, reverse=True)  # the old run up to some moment, the new one after it
    assert set(outcomes) == {"old", "new"}


def test_an_error_before_the_first_checkpoint_brings_the_old_run_back(tmp_path: Path) -> None:
    folder = write(tmp_path / "run", OLD)
    with pytest.raises(ValueError, match="7"), folder.lock():
        folder.start(TrainSettings(), ["content"])
        folder.log({"step": 1})
        write(folder.path, {"best/config.json": b"new", "tensorboard/events.out.tfevents.2": b"new"})
        raise ValueError(7)
    assert files(folder.path) == OLD


def test_an_error_after_the_first_checkpoint_leaves_the_new_run(tmp_path: Path) -> None:
    folder = write(tmp_path / "run", OLD)
    with pytest.raises(ValueError, match="7"), folder.lock():
        folder.start(TrainSettings(), ["content"])
        write(folder.path, {"last/config.json": b"new"})
        folder.checkpoint_made()
        raise ValueError(7)
    assert set(files(folder.path)) == {"run.json", "last/config.json"}


def test_the_best_of_a_run_that_is_being_replaced_is_found(tmp_path: Path) -> None:
    folder = write(tmp_path / "run", OLD)
    with folder.lock():
        folder.start(TrainSettings(), ["content"])
        assert find_checkpoint(folder.path).joinpath("config.json").read_bytes() == b"old best"
        write(folder.path, {"last/config.json": b"new", "best/config.json": b"new best"})
        folder.checkpoint_made()
        assert find_checkpoint(folder.path).joinpath("config.json").read_bytes() == b"new best"


def test_a_folder_that_nothing_was_written_into_is_removed_again(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="7"), RunFolder(tmp_path / "some/where").lock():
        raise ValueError(7)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_made_is_an_error_with_its_path(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ClipCapError, match=f"{tmp_path}/file/run"), RunFolder(tmp_path / "file/run").lock():
        pass


def test_checks_know_a_run_that_is_set_aside(tmp_path: Path) -> None:
    """Without a lock and before recovery, as the command asks for the settings of the run to resume."""
    settings = TrainSettings(lr=0.5)
    folder = RunFolder(tmp_path / "run")
    with folder.lock():
        folder.start(settings, ["old"])
        with pytest.raises(Crash):
            crash_in_new_run(folder)
        assert folder.stored() == (settings, ["old"])
        with pytest.raises(UsageError):
            folder.check(resume=False, overwrite=False)
        folder.check(resume=True, overwrite=False)


def crash_in_new_run(folder: RunFolder) -> None:
    folder.start(TrainSettings(lr=0.1), ["new"])
    raise Crash


@pytest.mark.parametrize("content", ["[]", "{", '{"settings": {}}', '{"version": 2}'])
def test_a_run_json_that_cannot_be_read_is_an_error_with_its_path(tmp_path: Path, content: str) -> None:
    folder = write(tmp_path / "run", {"run.json": content.encode()})
    with pytest.raises(CheckpointError, match=f"{tmp_path}/run/run.json"):
        folder.stored()


def test_a_folder_with_a_run_is_not_touched_unasked(tmp_path: Path, run: Any, options: Options) -> None:
    assert run("train", *options, "-o", tmp_path / "run").status == 0
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")}
    result = run("train", *options, "-o", tmp_path / "run")
    assert result.status == 2
    assert f"{tmp_path}/run" in result.err
    assert run("train", *options, "-o", tmp_path / "run", "--resume", "--overwrite").status == 2
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")} == before


def test_overwrite_removes_all_of_the_old_run_and_nothing_else(tmp_path: Path, run: Any, options: Options) -> None:
    assert run("train", *options, "-o", tmp_path / "run", "--epochs", 2).status == 0
    write(tmp_path / "run", {"notes.txt": b"mine", "tensorboard/events.out.tfevents.1": b"old"})
    assert run("train", *options, "-o", tmp_path / "run", "--overwrite").status == 0
    assert run("train", *options, "-o", tmp_path / "fresh").status == 0
    assert_same_run(tmp_path / "run", tmp_path / "fresh")
    assert (tmp_path / "run/notes.txt").read_text() == "mine"
    assert set(files(tmp_path / "run")) - {"notes.txt"} == set(files(tmp_path / "fresh"))
    assert "--epochs 2" not in (tmp_path / "run/train.log").read_text()


class Broken:
    """A tracker that opens its own folder and then fails."""

    package = "json"

    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
        write(folder, {"tensorboard/events.out.tfevents.9": b"new"})
        raise OSError("no account")


def test_overwrite_keeps_the_old_run_if_the_tracker_does_not_open(
    tmp_path: Path, run: Any, options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(TRACKERS, "broken", Broken)
    assert run("train", *options, "-o", tmp_path / "run").status == 0
    before = files(tmp_path / "run")
    result = run("train", *options, "-o", tmp_path / "run", "--overwrite", "--log-to", "broken")
    assert result.status == 2
    assert "no account" in result.err.splitlines()[-1]
    assert files(tmp_path / "run") == before


def test_overwrite_keeps_the_old_run_if_the_new_one_diverges_at_once(
    tmp_path: Path, run: Any, options: Options
) -> None:
    assert run("train", *options, "-o", tmp_path / "run").status == 0
    before = files(tmp_path / "run")
    result = run("train", *options, "-o", tmp_path / "run", "--overwrite", "--lr", 1e30, "--warmup", 0)
    assert result.status == 2
    assert files(tmp_path / "run") == before


@pytest.mark.slow
def test_resume_after_overwrite_was_killed_before_its_first_checkpoint_resumes_the_old_run(
    tmp_path: Path, run: Any, options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run("train", *options, "-o", tmp_path / "undisturbed").status == 0
    with monkeypatch.context() as patch:
        interrupt_in(patch, Trainer, "_step")
        assert run("train", *options, "-o", tmp_path / "run").status == 130
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "run", lambda self: (_ for _ in ()).throw(Crash()))
        with pytest.raises(Crash):
            run("train", *options, "-o", tmp_path / "run", "--seed", 3, "--overwrite")
    result = run("train", *options, "-o", tmp_path / "run", "--seed", 3, "--resume")
    assert result.status == 2
    assert "--seed 0, not 3" in result.err
    assert run("train", *options, "-o", tmp_path / "run", "--resume").status == 0
    assert_same_run(tmp_path / "undisturbed", tmp_path / "run")


@pytest.mark.slow
def test_resume_after_overwrite_was_killed_after_its_first_checkpoint_resumes_the_new_run(
    tmp_path: Path, run: Any, options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    seeded = [*options, "--seed", 3]
    assert run("train", *seeded, "-o", tmp_path / "undisturbed").status == 0
    assert run("train", *options, "-o", tmp_path / "run").status == 0
    with monkeypatch.context() as patch:
        patch.setattr(loop, "SAVE_EVERY", 0.0)
        patch.setattr(Trainer, "_validate", lambda self: (_ for _ in ()).throw(Crash()))
        with pytest.raises(Crash):
            run("train", *seeded, "-o", tmp_path / "run", "--overwrite")
    assert run("train", *seeded, "-o", tmp_path / "run", "--resume").status == 0
    assert_same_run(tmp_path / "undisturbed", tmp_path / "run")


@pytest.mark.parametrize("more", [["--overwrite"], ["--resume"]])
def test_a_folder_in_which_another_process_trains_is_refused_and_not_touched(
    tmp_path: Path, run: Any, options: Options, more: list[str]
) -> None:
    assert run("train", *options, "-o", tmp_path / "run").status == 0
    before = files(tmp_path / "run")
    hold = "import sys; from pathlib import Path; from clipcap.data.lock import hold_lock\n"
    hold += "with hold_lock(Path(sys.argv[1]), 'x'): print(flush=True); sys.stdin.read()"
    lock = tmp_path / "run/.lock"
    with subprocess.Popen(
        [sys.executable, "-c", hold, str(lock)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        result = run("train", *options, "-o", tmp_path / "run", *more)
        assert result.status == 2
        assert f"process {process.pid}" in result.err
        assert {name: data for name, data in files(tmp_path / "run").items() if name != ".lock"} == before
        process.communicate("")
    assert run("train", *options, "-o", tmp_path / "run", *more).status == 0
    assert not lock.exists()


def test_the_lock_is_held_while_a_run_trains(
    tmp_path: Path, run: Any, options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, held = Trainer._step, []

    def step(self: Trainer, captions: Any) -> Any:
        held.append(json.loads((self.folder.path / ".lock").read_text())["pid"])
        with pytest.raises(UsageError), hold_lock(self.folder.path / ".lock", "x"):
            pass
        return original(self, captions)

    monkeypatch.setattr(Trainer, "_step", step)
    assert run("train", *options, "-o", tmp_path / "run").status == 0
    assert held == [os.getpid()] * 4
    assert [line["step"] for line in metrics(tmp_path / "run")] == [4, 4]


def test_a_run_is_never_moved_or_deleted_through_a_link(tmp_path: Path) -> None:
    elsewhere = write(tmp_path / "elsewhere", {"last/config.json": b"precious", "x": b"precious"}).path
    for name in (".replacing", ".replaced", ".removed"):
        folder = write(tmp_path / name[1:], {"run.json": OLD["run.json"]})
        (folder.path / name).symlink_to(elsewhere)
        with pytest.raises(UsageError, match=f"{name} is a symbolic link where a folder"), folder.lock():
            pass
        assert files(elsewhere) == {"last/config.json": b"precious", "x": b"precious"}


@pytest.mark.parametrize("name", ["last", "best", "metrics.jsonl", "tensorboard"])
@pytest.mark.parametrize("there", [True, False])
def test_a_part_of_a_run_that_is_a_link_is_replaced_and_its_target_stays(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, there: bool
) -> None:
    elsewhere = tmp_path / "elsewhere"
    if there:
        write(elsewhere, {"config.json": b"precious"})
    folder = write(tmp_path / "run", {"run.json": OLD["run.json"]})
    (folder.path / name).symlink_to(elsewhere)
    new_run(folder)
    assert not (folder.path / name).is_symlink()
    assert elsewhere.exists() == there
    assert not there or files(elsewhere) == {"config.json": b"precious"}
    linked = [record.message for record in caplog.records if "is a symbolic link to" in record.message]
    assert len(linked) == (name in ("last", "best"))


def test_a_folder_that_is_a_link_to_nothing_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run").symlink_to(tmp_path / "gone")
    with pytest.raises(UsageError, match="is a symbolic link to a folder that is not there"):
        new_run(RunFolder(tmp_path / "run"))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs a system with FIFOs")
@pytest.mark.parametrize("name", ["run.json", "metrics.jsonl", "train.log"])
def test_a_fifo_in_a_run_that_is_resumed_is_named_and_not_waited_for(tmp_path: Path, name: str) -> None:
    folder = write(tmp_path / "run", {"run.json": OLD["run.json"]})
    (folder.path / name).unlink(missing_ok=True)
    os.mkfifo(folder.path / name)
    with pytest.raises(UsageError, match=f"{name} is no file, so the run cannot be resumed"):
        folder.check(resume=True, overwrite=False)


@pytest.mark.parametrize(
    "content",
    [
        b"[" * 100_000,
        b"[]",
        b'{"settings": [], "cache": []}',
        json.dumps({"settings": {**TrainSettings().flat(), "epochs": "3"}, "cache": []}).encode(),
        json.dumps({"settings": {**TrainSettings().flat(), "lr": [1]}, "cache": []}).encode(),
        json.dumps({"settings": {**TrainSettings().flat(), "extra": 1}, "cache": []}).encode(),
        json.dumps({"settings": TrainSettings().flat(), "cache": 7}).encode(),
        json.dumps({"settings": TrainSettings().flat(), "cache": [7]}).encode(),
    ],
)
def test_a_run_json_with_odd_values_is_refused_with_its_name(tmp_path: Path, content: bytes) -> None:
    folder = write(tmp_path / "run", {"run.json": content})
    with pytest.raises(CheckpointError, match=r"run/run\.json is damaged"):
        folder.stored()


def test_lines_of_metrics_that_are_damaged_are_left_out(tmp_path: Path) -> None:
    lines = [
        b'{"step": 1, "train_loss": 2.0}',
        b"[1]",
        b'{"step": "x", "lr": NaN}',
        b'{"step": 9}',
        b"[" * 99_999,
        b'{"st',
    ]
    folder = write(tmp_path / "run", {"metrics.jsonl": b"\n".join(lines)})
    folder.forget_after(5, 1, 1)
    folder.draw_curves()
    assert (folder.path / "metrics.jsonl").read_bytes().split(b"\n") == [lines[0], lines[2], b""]
