"""Where else the figures of a run go: TensorBoard or Weights & Biases, where a person has them installed."""

from pathlib import Path
from typing import Any, Protocol

from clipcap.data.errors import UsageError


class Tracker(Protocol):
    """Takes figures as they come."""

    def log(self, figures: dict[str, float], step: int) -> None:
        """Figures of one step."""


class TensorBoard:
    """Event files in a folder, for `tensorboard --logdir`.

    Args:
        folder: where to.
        recipe: of the run.

    Raises:
        UsageError: it is not installed.
    """

    def __init__(self, folder: Path, recipe: dict[str, Any]) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise UsageError("--log-to tensorboard is not installed here; pip install tensorboard") from error
        self._writer: Any = SummaryWriter(str(folder / "tensorboard"))
        self._writer.add_text("recipe", "  \n".join(f"{name}: {value}" for name, value in recipe.items()))

    def log(self, figures: dict[str, float], step: int) -> None:
        for name, value in figures.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()


class WeightsAndBiases:
    """A run of Weights & Biases.

    Args:
        folder: of the run; its name is the run's.
        recipe: of the run.

    Raises:
        UsageError: it is not installed.
    """

    def __init__(self, folder: Path, recipe: dict[str, Any]) -> None:
        try:
            import wandb
        except ImportError as error:
            raise UsageError("--log-to wandb is not installed here; pip install wandb") from error
        self._run: Any = wandb.init(project="clipcap", name=folder.name, dir=str(folder), config=recipe)

    def log(self, figures: dict[str, float], step: int) -> None:
        self._run.log(figures, step=step)


# A new one is its class and its line here.
TRACKERS: dict[str, Any] = {"tensorboard": TensorBoard, "wandb": WeightsAndBiases}


def open_tracker(name: str | None, folder: Path, recipe: dict[str, Any]) -> Tracker | None:
    """The tracker of that name; None for None.

    Raises:
        UsageError: there is none of that name, or it is not installed.
    """
    if name is None:
        return None
    if name not in TRACKERS:
        raise UsageError(f"--log-to {name} is not known; use {', '.join(TRACKERS)}")
    tracker: Tracker = TRACKERS[name](folder, recipe)
    return tracker
