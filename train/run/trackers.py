"""Trackers: services that get the metrics of a run besides metrics.jsonl."""

import importlib.util
from pathlib import Path
from typing import Any, Protocol

from clipcap.data.errors import ClipCapError, UsageError, one_line


class Tracker(Protocol):
    """Takes metrics while a run makes them."""

    def log(self, metrics: dict[str, float], step: int) -> None:
        """Take the metrics of one step."""

    def close(self) -> None:
        """End the run: there are no more metrics."""


class TensorBoard:
    """Writes event files for `tensorboard --logdir`.

    Args:
        folder: folder of the run; the files go into `tensorboard/` in it.
        settings: settings of the run.
    """

    package = "tensorboard"

    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer: Any = SummaryWriter(str(folder / "tensorboard"))
        self._writer.add_text("recipe", "  \n".join(f"{name}: {value}" for name, value in settings.items()))

    def log(self, metrics: dict[str, float], step: int) -> None:
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class WeightsAndBiases:
    """Sends the metrics to a run of Weights & Biases.

    Args:
        folder: folder of the run, whose name the run there has.
        settings: settings of the run.
    """

    package = "wandb"

    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
        import wandb

        self._run: Any = wandb.init(project="clipcap", name=folder.name, dir=str(folder), config=settings)
        self._newest = 0

    def log(self, metrics: dict[str, float], step: int) -> None:
        # wandb drops the metrics of a step before the newest one, but the score of an epoch comes an epoch later.
        self._newest = max(self._newest, step)
        late = {"score_step": step} if step < self._newest else {}
        self._run.log({**metrics, **late}, step=self._newest)

    def close(self) -> None:
        self._run.finish()


# To add a tracker, write its class and add it here.
TRACKERS: dict[str, Any] = {"tensorboard": TensorBoard, "wandb": WeightsAndBiases}


def check_tracker(name: str | None) -> None:
    """Check that a tracker can be opened, before anything is written.

    Raises:
        UsageError: there is no tracker of that name, or its package is not installed.
    """
    if name is None:
        return
    if name not in TRACKERS:
        raise UsageError(f"`log_to` {name} is not known; use {', '.join(TRACKERS)}")
    if importlib.util.find_spec(TRACKERS[name].package) is None:
        raise UsageError(f"`log_to` {name} is not installed here; pip install {TRACKERS[name].package}")


def open_tracker(name: str | None, folder: Path, settings: dict[str, Any]) -> Tracker | None:
    """Open the tracker of that name for a run in `folder`; return None if there is no name.

    Raises:
        UsageError: there is no tracker of that name, or its package is not installed.
        ClipCapError: it cannot be opened.
    """
    check_tracker(name)
    if name is None:
        return None
    try:
        tracker: Tracker = TRACKERS[name](folder, settings)
    except Exception as error:  # whatever the package raises, such as an account that is missing
        fact = f"`log_to` {name} cannot be opened ({one_line(error)})"
        raise ClipCapError(f"{fact}; fix that, or leave `log_to` out") from error
    return tracker
