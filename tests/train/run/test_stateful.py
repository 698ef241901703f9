"""A run's folder through random sequences of runs, resumed and overwritten, crashes and faults of the disk.

Whatever came before, the folder holds one whole run: its newest checkpoint, and one line of metrics for each step up to
it. A new run takes the place of an old one with its first checkpoint, and no checkpoint that was made is lost.
"""

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule
from hypothesis.stateful import run_state_machine_as_test as run_machine

from clipcap.data.cache.atomic import make_new_folder, replace_folder
from clipcap.data.errors import ClipCapError
from clipcap.train.run.folder import RunFolder
from clipcap.train.settings import TrainSettings
from faults import ERRORS, Faults
from small_world import Crash
from stateful import examples

Checkpoint = tuple[int, int] | None  # the number of its run, and its step; None where there is none
STEPS = st.integers(0, 3)
CALL = st.none() | st.integers(0, 60)  # that fails


def save(folder: Path, content: dict[str, int]) -> None:
    """Write a checkpoint, as `save_checkpoint` does."""
    new = folder.with_name(f".{folder.name}.partial")
    try:
        make_new_folder(new)
        (new / "state.json").write_text(json.dumps(content))
        replace_folder(new, folder)
    except Exception:
        shutil.rmtree(new, ignore_errors=True)
        raise


class RunFolderMachine(RuleBasedStateMachine):
    """The newest checkpoint that the folder should have, and what happens to the folder."""

    def __init__(self) -> None:
        super().__init__()
        self.parent = Path(tempfile.mkdtemp())
        self.folder = RunFolder(self.parent / "runs" / "one")
        self.checkpoint: Checkpoint = None
        self.serial = 0

    def teardown(self) -> None:
        shutil.rmtree(self.parent)

    @rule(steps=STEPS, at=CALL)
    def resume_and_be_killed(self, steps: int, at: int | None) -> None:
        self._run(steps, resume=True, at=at)

    @rule(steps=STEPS, at=CALL, error=st.sampled_from(ERRORS), lasting=st.booleans())
    def resume_on_a_bad_disk(self, steps: int, at: int | None, error: int, lasting: bool) -> None:
        self._run(steps, resume=True, at=at, error=error, lasting=lasting)

    @rule(steps=STEPS, at=CALL)
    def overwrite_and_be_killed(self, steps: int, at: int | None) -> None:
        self._run(steps, resume=False, at=at)

    @rule(steps=STEPS, at=CALL, error=st.sampled_from(ERRORS), lasting=st.booleans())
    def overwrite_on_a_bad_disk(self, steps: int, at: int | None, error: int, lasting: bool) -> None:
        self._run(steps, resume=False, at=at, error=error, lasting=lasting)

    @rule(size=st.integers(1, 10))
    def lose_the_end_of_a_line(self, size: int) -> None:
        """What a power failure may do to a line after the newest checkpoint."""
        if self.checkpoint is not None:
            with (self.folder.path / "metrics.jsonl").open("a") as file:
                file.write(json.dumps({"step": self.checkpoint[1] + 1})[:size])

    def _run(self, steps: int, *, resume: bool, at: int | None, **fault: Any) -> None:
        """Train for some steps, with one failing call; then see what is in the folder."""
        possible = {self.checkpoint}
        with pytest.MonkeyPatch.context() as patch:
            faults = Faults(patch, self.parent, at=at, **fault)
            try:
                self._train(steps, resume, possible)
            except (Crash, ClipCapError, OSError):
                assert faults.failed
        with self.folder.lock():  # which recovers
            self.checkpoint = self._found()
        assert self.checkpoint in possible
        if self.folder.path.exists():
            hidden = {path.name for path in self.folder.path.glob(".*")}
            assert hidden <= {".metrics.jsonl.partial", ".run.json.partial"}  # which the next write replaces

    def _train(self, steps: int, resume: bool, possible: set[Checkpoint]) -> None:
        """Do what a run does to its folder; `possible` follows which checkpoints a crash may leave."""
        folder = self.folder
        with folder.lock():
            folder.check(resume=resume, overwrite=not resume)
            (before,) = possible
            assert self._found() == before
            stored = folder.stored() if resume else None
            if stored is None or before is None:
                self.serial += 1
                run, first = self.serial, 0
                folder.start(TrainSettings(seed=run), [f"cache of {run}"])
            else:
                run, first = before
                assert (stored[0].seed, stored[1]) == (run, [f"cache of {run}"])
                folder.forget_after(first, first, first)
                assert self._lines() == [{"run": run, "step": step} for step in range(1, first + 1)]
            for step in range(first + 1, first + steps + 1):
                content = {"run": run, "step": step}
                folder.log(content)
                possible.add((run, step))
                save(folder.best, content)
                save(folder.last, content)
                folder.checkpoint_made()
                possible.clear()
                possible.add((run, step))

    def _found(self) -> Checkpoint:
        """Return the newest checkpoint, which belongs with run.json and is not newer than `best`."""
        if not self.folder.last.exists():
            return None
        last, best = (json.loads((self.folder.path / name / "state.json").read_text()) for name in ("last", "best"))
        stored = self.folder.stored()
        assert stored is not None
        assert stored[0].seed == last["run"] == best["run"]
        assert best["step"] - last["step"] in (0, 1)
        return last["run"], last["step"]

    def _lines(self) -> list[Any]:
        file = self.folder.path / "metrics.jsonl"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def test_a_folder_holds_one_whole_run_after_any_sequence_of_runs_crashes_and_faults() -> None:
    run_machine(RunFolderMachine, settings=examples(20, 12))
