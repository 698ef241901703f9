"""The folder of a run: what it holds, and how a new run takes the place of an old one.

    run.json        settings and cache of the run, with a version
    metrics.jsonl   one line every few steps, one for each validation, and one for each score of `metric`
    curves.png      the same as an image
    train.log       the messages of the run, with times
    last/, best/    checkpoints; `last` also holds the training state
    tensorboard/    event files, with `log_to` tensorboard
    .lock           names the process that trains here

The lines of metrics.jsonl carry no version: the program only draws them, and ignores names that it does not know.

With `overwrite`, the old run stays until the new one has made its first checkpoint. A crash at any moment leaves one of
these states, and the next run in the folder recovers from it before it does anything else:

    files of the old run   files of the new run   what recovery does
    ---------------------  ---------------------  ----------------------------------------------------
    in place               -                      nothing
    some in .replacing/    -                      move them back
    all in .replaced/      in place               remove the new files; rename .replaced/ to .replacing/,
                                                  and move the old ones back
    all in .removed/       in place, `last` made  remove .removed/

An error before the first checkpoint does the same at once. So `resume` continues the new run if it has a checkpoint,
and the old run otherwise.
"""

import contextlib
import json
import logging
import math
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipcap.data.cache.atomic import recover_folder, set_aside, sync_folder, write_file
from clipcap.data.errors import CheckpointError, ClipCapError, UsageError, one_line
from clipcap.data.files import as_object, read_json_object
from clipcap.data.lock import hold_lock
from clipcap.data.metrics import METRICS
from clipcap.train.model.checkpoint import check_version
from clipcap.train.model.find import REPLACED, REPLACING
from clipcap.train.run.metrics_file import read_metrics
from clipcap.train.settings import TrainSettings

logger = logging.getLogger(__name__)

VERSION = 1  # of run.json
REMOVED = ".removed"
# All that a run writes. run.json comes first: without it, the rest is not a run.
FILES = ("run.json", "metrics.jsonl", "curves.png", "train.log")
CHECKPOINTS = ("last", "best")


@dataclass(frozen=True)
class RunFolder:
    """The folder of a run.

    Attributes:
        path: the folder; it need not exist.
    """

    path: Path

    @property
    def last(self) -> Path:
        """The newest checkpoint, with the training state."""
        return self.path / "last"

    @property
    def best(self) -> Path:
        """The best checkpoint: that with the lowest validation loss, or with the highest score of `metric`."""
        return self.path / "best"

    @property
    def log_file(self) -> Path:
        """The messages of the run, with times."""
        return self.path / "train.log"

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Keep other processes out of the folder while inside, and recover what a crash left in it.

        The folder is created if needed, and removed again if nothing was written into it. If an error leaves the
        context before the run that `start` began has made a checkpoint, the run that was here before comes back.

        Raises:
            UsageError: another process trains in this folder.
            ClipCapError: the folder cannot be written.
        """
        if self.path.is_symlink() and not self.path.exists():
            raise UsageError(f"`output` {self.path} is a symbolic link to a folder that is not there; give another")
        created = [folder for folder in (self.path, *self.path.parents) if not folder.exists()]
        with self._writing():
            self.path.mkdir(parents=True, exist_ok=True)
        try:
            with hold_lock(self.path / ".lock", str(self.path)):
                self._recover()
                for link in (folder for folder in (self.last, self.best) if folder.is_symlink()):
                    logger.warning(
                        f"{link} is a symbolic link to {link.resolve()}; the next checkpoint takes the place of the "
                        "link, and what it points to stays as it is"
                    )
                try:
                    yield
                except (Exception, KeyboardInterrupt):
                    if (self.path / REPLACED).exists():
                        self._recover()
                        logger.warning(f"the new run made no checkpoint; the run that was in {self.path} is back")
                    raise
        finally:
            for folder in created:
                with contextlib.suppress(OSError):
                    folder.rmdir()

    def check(self, *, resume: bool, overwrite: bool) -> None:
        """Refuse a folder that holds a run which is to be neither resumed nor replaced. Writes nothing.

        Args:
            resume: the run in the folder is to be resumed.
            overwrite: the run in the folder is to be replaced.

        Raises:
            UsageError: a run is here and neither is set, or both are, or what is here has no run.json and cannot be
                resumed.
        """
        if resume and overwrite:
            raise UsageError("`resume` continues a run and `overwrite` replaces it; give one of them")
        names = [*FILES, *CHECKPOINTS, *(set_aside(Path(name)).name for name in CHECKPOINTS)]
        folders = [self.path / REPLACED, self.path / REPLACING, self.path]
        present = [folder / name for folder in folders for name in names if os.path.lexists(folder / name)]
        if present and not resume and not overwrite:
            raise UsageError(
                f"{self.path} holds a run already ({present[0].name}); continue it with `resume`, replace it with "
                "`overwrite`, or give another `output`"
            )
        if present and resume and not self._run_json().exists():
            fact = f"{self.path} holds {present[0].name} but no run.json, so it cannot be resumed"
            raise UsageError(f"{fact}; give another `output`")
        for file in (self.path / name for name in FILES):
            if resume and file.exists() and not file.is_file():
                raise UsageError(f"{file} is no file, so the run cannot be resumed; move it away")

    def start(self, settings: TrainSettings, cache: list[str]) -> None:
        """Begin a run. The files of an older run are set aside until the new one has made its first checkpoint.

        Args:
            settings: settings of the run.
            cache: the content hashes of the cache's shards.

        Raises:
            ClipCapError: the folder cannot be written.
        """
        replacing = self.path / REPLACING
        with self._writing():
            self.path.mkdir(parents=True, exist_ok=True)
            parts = [part for part in self._parts() if os.path.lexists(part)]
            if parts:
                replacing.mkdir()
                for part in parts:
                    os.replace(part, replacing / part.name)  # noqa: PTH105 - tests crash the program at this name
                sync_folder(replacing)
                os.replace(replacing, self.path / REPLACED)  # noqa: PTH105
                sync_folder(self.path)
        started = {"version": VERSION, "settings": settings.flat(), "cache": cache}
        write_file(self.path / "run.json", json.dumps(started, indent=1).encode())

    def checkpoint_made(self) -> None:
        """Remove the run that `start` set aside, now that `last` holds a checkpoint of the new one.

        Raises:
            ClipCapError: the folder cannot be written.
        """
        if (self.path / REPLACED).exists():
            with self._writing():
                os.replace(self.path / REPLACED, self.path / REMOVED)  # noqa: PTH105
                sync_folder(self.path)
            shutil.rmtree(self.path / REMOVED, ignore_errors=True)

    def stored(self) -> tuple[TrainSettings, list[str]] | None:
        """Return the settings and the cache that the run here was started with, or None if there is no run.

        Raises:
            CheckpointError: run.json is damaged or of an unknown version.
        """
        file = self._run_json()
        if not file.exists():
            return None
        try:
            content = read_json_object(file)
            check_version(file, content.get("version", 1), VERSION)
            flat = as_object(content["settings"])
            if "sampling" not in flat:
                fact = f"{file} is of an older version, with other steps"
                raise CheckpointError(f"{fact}; start again with `overwrite`")
            settings = TrainSettings.from_flat(flat)
            if not isinstance(content["cache"], list) or not all(isinstance(each, str) for each in content["cache"]):
                raise ValueError("its cache is no list of hashes")
            return settings, content["cache"]
        except OSError as error:
            raise CheckpointError(f"{file} cannot be read ({error.strerror}); start again with `overwrite`") from error
        except (ValueError, KeyError, TypeError, AttributeError, UsageError) as error:
            fact = one_line(error).replace("`", "")
            raise CheckpointError(f"{file} is damaged ({fact}); start again with `overwrite`") from error

    def draw_curves(self) -> None:
        """Draw the lines of metrics.jsonl into curves.png.

        Raises:
            ClipCapError: the image cannot be written.
        """
        from clipcap.train.run.curves import draw_curves

        file = self.path / "metrics.jsonl"
        if file.exists():
            draw_curves([line for _, line in self._metrics()], self.path / "curves.png")

    def log(self, line: dict[str, Any]) -> None:
        """Append a line to metrics.jsonl.

        Raises:
            ClipCapError: it cannot be written.
        """
        try:
            with (self.path / "metrics.jsonl").open("a", encoding="utf-8", newline="\n") as file:
                file.write(json.dumps(line) + "\n")
        except OSError as error:
            fact = f"{self.path / 'metrics.jsonl'} cannot be written ({one_line(error)})"
            raise ClipCapError(f"{fact}; fix that and continue with `resume`") from error

    def forget_after(self, step: int, epochs: int, scored: int) -> None:
        """Drop the lines of metrics.jsonl that a run which resumes will write again.

        Args:
            step: steps that are done.
            epochs: epochs whose validation is done.
            scored: epochs whose score is decided on.

        Raises:
            ClipCapError: the file cannot be written.
        """
        file = self.path / "metrics.jsonl"
        if not file.exists():
            return
        kept = []
        for text, line in self._metrics():  # a crash in the middle of a line, the last one, leaves none
            is_score = any(f"val_{name}" in line for name in METRICS)
            whole = scored if is_score else epochs if "val_loss" in line else math.inf
            if line.get("step", 0) <= step and line.get("epoch", 0) <= whole:
                kept.append(text + "\n")
        write_file(file, "".join(kept).encode())

    def _metrics(self) -> list[tuple[str, dict[str, Any]]]:
        """Read the lines of metrics.jsonl.

        Raises:
            ClipCapError: it is no file, or cannot be read.
        """
        file = self.path / "metrics.jsonl"
        try:
            return read_metrics(file)
        except OSError as error:
            raise ClipCapError(f"{file} cannot be read ({error.strerror}); move it away") from error

    def _parts(self) -> list[Path]:
        """Return the paths of all that a run may have written, complete or not."""
        written = [*FILES, *CHECKPOINTS]
        unfinished = [f".{name}.partial" for name in written] + [set_aside(Path(name)).name for name in CHECKPOINTS]
        return [self.path / name for name in (*written, *unfinished, "tensorboard")]

    def _run_json(self) -> Path:
        """Return where the run.json of the run that `resume` continues lies, recovered or not."""
        if (self.path / REPLACED).exists():
            return self.path / REPLACED / "run.json"
        moved = self.path / REPLACING / "run.json"
        return moved if moved.exists() else self.path / "run.json"

    def _recover(self) -> None:
        """Bring the folder into one of its two whole states: the old run, or the new one with a checkpoint."""
        replaced, replacing = self.path / REPLACED, self.path / REPLACING
        for folder in (replaced, replacing, self.path / REMOVED):
            if folder.is_symlink():  # what is elsewhere must not be moved here
                raise UsageError(f"{folder} is a symbolic link where a folder of the program belongs; remove the link")
        with self._writing():
            shutil.rmtree(self.path / REMOVED, ignore_errors=True)
            if replaced.exists():
                for part in self._parts():
                    if part.is_dir() and not part.is_symlink():
                        shutil.rmtree(part)
                    else:
                        part.unlink(missing_ok=True)
                os.replace(replaced, replacing)  # noqa: PTH105
            if replacing.exists():
                for part in replacing.iterdir():
                    os.replace(part, self.path / part.name)  # noqa: PTH105
                replacing.rmdir()
            for checkpoint in (self.last, self.best):
                recover_folder(checkpoint)
                shutil.rmtree(checkpoint.with_name(f".{checkpoint.name}.partial"), ignore_errors=True)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            fact = f"the folder {self.path} cannot be written ({one_line(error)})"
            raise ClipCapError(f"{fact}; fix that, or give another `output`") from error


def check_same(folder: Path, stored: TrainSettings, wanted: TrainSettings) -> None:
    """Refuse to resume a run with other settings than its own.

    Raises:
        UsageError: a setting differs; the first one is named.
    """
    before = stored.flat()
    for name, value in wanted.flat().items():
        if name not in before or before[name] != value:
            raise UsageError(
                f"{folder} was started with `{name}` {before.get(name)}, not {value}; leave `{name}` out, or give "
                "another `output`"
            )
