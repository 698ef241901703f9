"""The folder of a run: what it was started with, its metrics, its checkpoints, and what may happen to them.

run.json        settings and cache of the run
metrics.jsonl   one line every few steps, one a validation
last/, best/    checkpoints; `last` also holds the training state
"""

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from clipcap.data.atomic import recover_folder, write_file
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

    def start(self, settings: TrainSettings, cache: list[str], *, resume: bool, overwrite: bool) -> bool:
        """Begin a run here, or find the one to go on with.

        Args:
            settings: of this run.
            cache: the content sums of the cache's shards.
            resume: go on with the run that is here, if one is.
            overwrite: take away the run that is here, if one is.

        Returns:
            Whether there is a checkpoint to go on from.

        Raises:
            UsageError: a run is here and neither was asked for, or it has other settings or another cache.
            ClipCapError: the folder cannot be written.
        """
        if resume and overwrite:
            raise UsageError("--resume goes on with a run and --overwrite takes it away; give one of them")
        file = self.path / "run.json"
        present = [path for path in (file, self.last, self.best, self.path / "metrics.jsonl") if path.exists()]
        if present and not resume and not overwrite:
            raise UsageError(
                f"{self.path} holds a run already ({present[0].name}); go on with it with --resume, replace it with "
                "--overwrite, or give another folder with -o"
            )
        started = {"settings": asdict(settings), "cache": cache}
        if resume and file.exists():
            self._check_same(json.loads(file.read_text()), started)
            recover_folder(self.last)
            recover_folder(self.best)
            return self.last.exists()
        if present and not overwrite:
            raise UsageError(
                f"{self.path} holds {present[0].name} but no run.json, so nothing to resume; give another -o"
            )
        for path in present:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ClipCapError(f"the folder {self.path} cannot be made ({one_line(error)}); give another -o") from error
        write_file(file, json.dumps(started, indent=1).encode())
        return False

    def stored_settings(self) -> TrainSettings | None:
        """The settings that the run here was started with; None where no run is here.

        Raises:
            CheckpointError: run.json is broken.
        """
        file = self.path / "run.json"
        if not file.exists():
            return None
        try:
            return TrainSettings(**json.loads(file.read_text())["settings"])
        except (ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"{file} is damaged ({one_line(error)}); start again with --overwrite") from error

    def log(self, line: dict[str, Any]) -> None:
        """Append a line to metrics.jsonl."""
        with (self.path / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")

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
            if line["step"] <= step and ("val_loss" not in line or line["epoch"] <= validated):
                kept.append(text + "\n")
        write_file(file, "".join(kept).encode())

    def _check_same(self, stored: dict[str, Any], started: dict[str, Any]) -> None:
        if stored["cache"] != started["cache"]:
            raise UsageError(
                f"{self.path} is a run on another cache; give the cache that it was started with, or another -o"
            )
        for name, value in started["settings"].items():
            if stored["settings"].get(name) != value:
                option = name.replace("_", "-")
                raise UsageError(
                    f"{self.path} was started with --{option} {stored['settings'].get(name)}, not {value}; a "
                    f"run goes on as it "
                    "was started: leave the option out, or give another -o"
                )
