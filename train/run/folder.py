"""The folder of a run: what it was started with, its metrics, its checkpoints, and what may happen to them.

run.json        settings and cache of the run
metrics.jsonl   one line every few steps, one a validation
curves.png      the same as a picture
train.log       what was said
last/, best/    checkpoints; `last` also holds the training state
"""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipcap.data.cache.atomic import recover_folder, set_aside, write_file
from clipcap.data.errors import CheckpointError, ClipCapError, UsageError, one_line
from clipcap.train.settings import TrainSettings


@dataclass(frozen=True)
class RunFolder:
    """A run's folder.

    Attributes:
        path: as `-o` named it.
    """

    path: Path

    @property
    def last(self) -> Path:
        """The newest checkpoint, with the training state."""
        return self.path / "last"

    @property
    def best(self) -> Path:
        """The checkpoint with the lowest validation loss."""
        return self.path / "best"

    def check(self, *, resume: bool, overwrite: bool) -> None:
        """Refuse a folder that holds a run, where neither was asked for. Touches nothing.

        Args:
            resume: the run that is here is to go on.
            overwrite: the run that is here is to go.

        Raises:
            UsageError: a run is here and neither is set, or both are, or there are remains without a run.json to
                resume.
        """
        if resume and overwrite:
            raise UsageError("--resume goes on with a run and --overwrite takes it away; give one of them")
        present = [path.name for path in self._parts() if path.exists()]
        if present and not resume and not overwrite:
            raise UsageError(
                f"{self.path} holds a run already ({present[0]}); go on with it with --resume, replace it with "
                "--overwrite, or give another folder with -o"
            )
        if present and resume and not (self.path / "run.json").exists():
            raise UsageError(f"{self.path} holds {present[0]} but no run.json, so nothing to resume; give another -o")

    def start(self, settings: TrainSettings, cache: list[str]) -> None:
        """Begin a run here; what an older run left is taken away.

        Args:
            settings: of this run.
            cache: the content sums of the cache's shards.

        Raises:
            ClipCapError: the folder cannot be written.
        """
        for path in self._parts():
            if path.exists():
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ClipCapError(f"the folder {self.path} cannot be made ({one_line(error)}); give another -o") from error
        started = {"settings": settings.flat(), "cache": cache}
        write_file(self.path / "run.json", json.dumps(started, indent=1).encode())

    def stored(self) -> tuple[TrainSettings, list[str]] | None:
        """The settings and the cache that the run here was started with; None where no run is here.

        Raises:
            CheckpointError: run.json is broken.
        """
        file = self.path / "run.json"
        if not file.exists():
            return None
        try:
            content = json.loads(file.read_text())
            if "sampling" not in content["settings"]:
                raise CheckpointError(f"{file} is of an older version, with other steps; start again with --overwrite")
            return TrainSettings.from_flat(content["settings"]), list(content["cache"])
        except (ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"{file} is damaged ({one_line(error)}); start again with --overwrite") from error

    def go_on(self) -> bool:
        """Mend what a crash may have left of the checkpoints; whether there is one to go on from."""
        recover_folder(self.last)
        recover_folder(self.best)
        return self.last.exists()

    @property
    def log_file(self) -> Path:
        """What the run said, with times."""
        return self.path / "train.log"

    def draw_curves(self) -> None:
        """Draw metrics.jsonl.

        Raises:
            ClipCapError: the picture cannot be written.
        """
        from clipcap.train.run.curves import draw_curves

        file = self.path / "metrics.jsonl"
        if file.exists():
            lines = [json.loads(line) for line in file.read_text().splitlines()]
            draw_curves(lines, self.path / "curves.png")

    def log(self, line: dict[str, Any]) -> None:
        """Append a line to metrics.jsonl.

        Raises:
            ClipCapError: it cannot be written.
        """
        try:
            with (self.path / "metrics.jsonl").open("a") as file:
                file.write(json.dumps(line) + "\n")
        except OSError as error:
            fact = f"{self.path / 'metrics.jsonl'} cannot be written ({one_line(error)})"
            raise ClipCapError(f"{fact}; mend that and go on with --resume") from error

    def _parts(self) -> list[Path]:
        """All that a run writes, run.json first: without it the rest is not a run."""
        checkpoints = [self.last, self.best, *(set_aside(path) for path in (self.last, self.best))]
        files = ("run.json", "metrics.jsonl", "curves.png", "train.log")
        return [*(self.path / name for name in files), *checkpoints]

    def forget_after(self, step: int, validated: int) -> None:
        """Drop the lines of metrics.jsonl that a run which goes on from `step` will write again.

        Args:
            step: steps that were done.
            validated: epochs whose validation was done.
        """
        file = self.path / "metrics.jsonl"
        if not file.exists():
            return
        kept = []
        for text in file.read_text().splitlines():
            try:
                line = json.loads(text)
            except ValueError:  # a crash in the middle of a line; it was the last
                break
            if line.get("step", 0) <= step and ("val_loss" not in line or line.get("epoch", 0) <= validated):
                kept.append(text + "\n")
        write_file(file, "".join(kept).encode())


def check_same(folder: Path, stored: TrainSettings, wanted: TrainSettings) -> None:
    """Refuse to go on with a run under other settings.

    Raises:
        UsageError: a setting differs; the first is named.
    """
    before = stored.flat()
    for name, value in wanted.flat().items():
        if name not in before or before[name] != value:
            raise UsageError(
                f"{folder} was started with `{name}` {before.get(name)}, not {value}; leave `{name}` out, or give "
                "another `output`"
            )
