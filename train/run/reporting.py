"""Reports a run: lines of metrics.jsonl, the tracker, the curves, and messages about validations and the end.

Knows nothing of models and of how the figures are computed.
"""

import logging
from typing import Any

from clipcap.data.command.progress import plural
from clipcap.train.run.folder import RunFolder
from clipcap.train.run.trackers import Tracker
from clipcap.train.validate import SMALL_GAP, Validation

logger = logging.getLogger(__name__)


class Reporter:
    """Reports what happens in a run.

    Args:
        folder: folder of the run, started.
        writes: whether this process writes metrics; of several, only the first one does. The others only log messages.

    Attributes:
        tracker: gets the metrics besides the folder.
    """

    def __init__(self, folder: RunFolder, *, writes: bool) -> None:
        self.folder, self.writes = folder, writes
        self.tracker: Tracker | None = None

    def training(self, *, step: int, epoch: int, loss: float, rate: float, captions_per_second: float) -> None:
        """Write a line about the steps since the last such line.

        Args:
            step: steps done.
            epoch: the epoch that they belong to, from 1.
            loss: their mean loss, in nats a token.
            rate: the learning rate of the last one.
            captions_per_second: their speed.
        """
        line = {"step": step, "epoch": epoch, "train_loss": loss, "lr": rate}
        self._write({**line, "captions_per_second": round(captions_per_second, 2)})

    def validation(self, result: Validation, *, step: int, epoch: int) -> None:
        """Write and show the validation at the end of an epoch, which is counted from 1."""
        samples = [dict(zip(("path", "caption", "reference"), sample, strict=True)) for sample in result.samples]
        line = {"step": step, "epoch": epoch, "val_loss": result.loss, "image_gap": result.image_gap}
        self._write({**line, "samples": samples})
        gap = "unknown (one image)" if result.image_gap is None else f"{result.image_gap:+.4f}"
        logger.info(f"epoch {epoch}: validation loss {result.loss:.4f}, image gap {gap}")
        for path, caption, _ in result.samples:
            logger.info(f"  {path}: {caption}")

    def score(self, metric: str, score: float, *, step: int, epoch: int, best: bool) -> None:
        """Write and show the score of the captions after an epoch, which is counted from 1.

        Args:
            metric: name of the metric.
            score: its figure over the validation images.
            step: steps done when the epoch ended.
            epoch: the epoch.
            best: whether it is the highest so far.
        """
        self._write({"step": step, "epoch": epoch, f"val_{metric}": score})
        logger.info(f"epoch {epoch}: validation {metric} {score:.4f}{', the best so far' if best else ''}")

    def curves(self) -> None:
        """Draw the metrics written so far.

        Raises:
            ClipCapError: the image cannot be written.
        """
        if self.writes:
            self.folder.draw_curves()

    def end(self, last: Validation | None, *, early: bool, metric: str, epochs_since_best: int) -> None:
        """Show why the run ended early, and warn of a model that does not use the image.

        Args:
            last: the validation after the last epoch, if there is one.
            early: whether `patience` ended the run.
            metric: what chose the best checkpoint: `loss`, or a metric of captions.
            epochs_since_best: epochs since the best one.
        """
        if last is not None and last.image_gap is not None and last.image_gap < SMALL_GAP:
            logger.warning(
                "the image gap is near zero: the model hardly uses the image; train longer, or check that captions and "
                "images belong together"
            )
        if early:
            epochs = plural(epochs_since_best, "epoch")
            best = "lowest" if metric == "loss" else "highest"
            logger.info(f"the validation {metric} was {best} {epochs} ago: the run ends here (`patience`)")

    def _write(self, line: dict[str, Any]) -> None:
        if not self.writes:
            return
        self.folder.log(line)
        if self.tracker is not None:
            metrics = {name: value for name, value in line.items() if isinstance(value, int | float)}
            step = metrics.pop("step")
            self.tracker.log(metrics, int(step))
