"""The loop of stage 2: steps, validations, checkpoints, and going on after a stop as if there had been none.

Knows nothing of command lines and of how a cache is read.
"""

import logging
import math
import time
from collections import deque
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from clipcap.data.command.progress import Progress, plural
from clipcap.data.errors import CheckpointError, ClipCapError
from clipcap.train.corpus.captions import Corpus
from clipcap.train.corpus.embeddings import StreamedEmbeddings
from clipcap.train.corpus.sampler import epoch_batches
from clipcap.train.engine.distributed import World
from clipcap.train.engine.step import LEAST_LOSS_SCALE, Engine, StepResult
from clipcap.train.model.captioning import ClipCapModel, train_mode
from clipcap.train.model.checkpoint import CheckpointConfig, load_trained, read_config, save_checkpoint
from clipcap.train.run.folder import RunFolder
from clipcap.train.run.interrupt import on_interrupt
from clipcap.train.run.state import TrainState, restore, training_state
from clipcap.train.run.trackers import Tracker
from clipcap.train.settings import TrainSettings, lr_factor
from clipcap.train.validate import Validation, validate

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

LOG_EVERY = 50  # steps between two lines of metrics.jsonl
STOP_EVERY = 10  # steps between two questions to other processes on GPUs whether they were stopped
SAVE_EVERY = 600.0  # seconds between two checkpoints within an epoch
SMALL_GAP = 0.02  # nats; a model that looks at the picture is far above

Numbers = NDArray[np.int64]


class Trainer:
    """Trains one model on one corpus into one folder.

    Args:
        model: on `device`, with `requires_grad` set on what trains.
        tokenizer: for samples and checkpoints.
        train: what to train on, on `device`.
        val: what to validate on, on `device`; None where the cache has no such split.
        settings: of the run.
        checkpoint: what checkpoints say of themselves; their progress is filled in here.
        folder: of the run, started.
        device: of the model.
        world: this process among those that train the model.

    Attributes:
        engine: makes the steps.
        tracker: where figures go besides the folder; may be set before `run`.
    """

    def __init__(
        self,
        *,
        model: ClipCapModel,
        tokenizer: "PreTrainedTokenizerBase",
        train: Corpus,
        val: Corpus | None,
        settings: TrainSettings,
        checkpoint: CheckpointConfig,
        folder: RunFolder,
        device: torch.device,
        world: World,
    ) -> None:
        self.model, self.tokenizer, self.train, self.val = model, tokenizer, train, val
        self.settings, self.checkpoint, self.folder = settings, checkpoint, folder
        self.device, self.world = device, world
        self.state = TrainState()
        self.steps_per_epoch = math.ceil(len(train) / settings.batch_size)
        self.total_steps = self.steps_per_epoch * settings.epochs
        self.warmup_steps = settings.warmup_steps(self.total_steps)
        self.engine = Engine(model, settings, device, world)
        self.tracker: Tracker | None = None
        self._stop = False
        self._unread: deque[StepResult] = deque()
        self._saved_at = time.monotonic()

    def resume(self) -> None:
        """Go on from the folder's `last` checkpoint.

        Raises:
            CheckpointError: it is broken, of a model of another shape, or of a language model that has changed since.
        """
        last = self.folder.last
        described, now = read_config(last).language_model, self.checkpoint.language_model
        if described.sha256 != now.sha256:
            raise CheckpointError(
                f"{now.name} is not the language model that {last} began with; put the right one back"
            )
        load_trained(last, self.model, with_lm=now.tuned)
        self.state = restore(last, self.engine)

    def run(self) -> bool:
        """Train to the end, or until Ctrl-C.

        Returns:
            Whether the end was reached; if not, `last` holds everything to go on with.

        Raises:
            ClipCapError: the loss is no longer a number, a caption does not fit into memory, or a file cannot be
                written. The checkpoints before stay.
        """
        if self.world.first:
            self.folder.forget_after(self.state.step, self.state.epoch)
        with (
            on_interrupt(self._request_stop),
            Progress("training", "steps", self.total_steps, self.state.step) as progress,
        ):
            while not self.finished:
                try:
                    self._epoch(progress)
                    result = self.world.broadcast(self._validate())  # the last bits may differ between machines
                except torch.OutOfMemoryError as error:
                    fact = f"{self.device} is out of memory with {self.settings.batch_size} captions"
                    raise ClipCapError(f"{fact}; start again with a smaller --batch-size and --overwrite") from error
                self._stop = self.world.any_rank(self._stop, self.device)
                if self._stop:  # in the steps or in the validation, which is then made again
                    self._save_last()
                    return False
                self._finish_epoch(result)
        return True

    @property
    def finished(self) -> bool:
        """Whether all epochs are done, or patience is at its end."""
        patience = self.settings.patience
        return self.state.epoch >= self.settings.epochs or bool(patience and self.state.epochs_since_best >= patience)

    def _epoch(self, progress: Progress) -> None:
        state, settings = self.state, self.settings
        embedding = self.train.embedding
        batches = epoch_batches(
            self.train.image,
            settings.batch_size,
            sampling=settings.sampling,
            seed=settings.seed,
            epoch=state.epoch,
            block_images=embedding.block_images if isinstance(embedding, StreamedEmbeddings) else None,
        )[state.batch :]
        if isinstance(embedding, StreamedEmbeddings) and batches:
            embedding.expect(self.train.image[np.concatenate([self.world.shard(batch) for batch in batches])])
        # The next fp16 step needs the scale that this one decides.
        reads_behind = self.device.type == "cuda" and settings.precision != "fp16"
        train_mode(self.model)
        started, captions = time.monotonic(), 0
        for number, batch in enumerate(batches):
            if self.world.size == 1 or self.device.type == "cpu" or state.step % STOP_EVERY == 0:
                self._stop = self.world.any_rank(self._stop, self.device)
                if self._stop:
                    break
            self._unread.append(self._step(batch))
            state.step += 1
            state.batch += 1
            captions += len(batch)
            # A GPU computes this step while the last one's loss is read and the next one is laid out.
            loss = self._read(leave=1 if reads_behind and number + 1 < len(batches) else 0)
            if loss is not None:
                progress.advance(remark=f"epoch {state.epoch + 1}/{settings.epochs}, loss {loss:.3f}")
            if state.step % LOG_EVERY == 0 or number + 1 == len(batches):
                self._read()
                self._log_training(captions / (time.monotonic() - started))
                started, captions = time.monotonic(), 0
            if time.monotonic() - self._saved_at > SAVE_EVERY:
                self._save_last()
        self._read()

    def _step(self, captions: Numbers) -> StepResult:
        state, settings = self.state, self.settings
        factor = lr_factor(state.step, self.warmup_steps, self.total_steps, settings.schedule)
        return self.engine.step(self.train, captions, rate=settings.lr * factor, number=state.step)

    def _read(self, leave: int = 0) -> float | None:
        """Read what steps found, but for the newest `leave` of them; the last loss that was read.

        Raises:
            ClipCapError: a loss or a gradient was no number, and fp16 is not to blame. No step was made of it.
        """
        state, scale = self.state, self.engine.loss_scale
        loss = None
        while len(self._unread) > leave:
            result = self._unread.popleft()
            loss, norm = result.read()
            finite = math.isfinite(loss) and math.isfinite(norm)
            if self.settings.precision == "fp16":
                scale.update(finite)
            if not finite and (self.settings.precision != "fp16" or scale.scale < LEAST_LOSS_SCALE):
                step = state.step - len(self._unread)
                raise ClipCapError(
                    f"the loss is {loss} and its gradient {norm} at step {step}: training has diverged; start again "
                    f"with a lower --lr (it was {self.settings.lr}); the checkpoints before are kept"
                )
            if math.isfinite(loss):
                state.loss_sum += loss * result.tokens
                state.loss_tokens += result.tokens
        return loss

    def _validate(self) -> Validation | None:
        if self.val is None or self._stop:
            return None
        return validate(
            self.model,
            self.val,
            self.tokenizer,
            batch_size=self.settings.batch_size,
            device=self.device,
            precision=self.settings.precision,
            stopped=lambda: self._stop,
        )

    def _finish_epoch(self, result: Validation | None) -> None:
        """Say what the validation found, and save: after this the next epoch begins."""
        state = self.state
        epoch = state.epoch + 1
        if result is not None:
            self._log({"step": state.step, "epoch": epoch, "val_loss": result.loss, **_rest(asdict(result))})
            gap = "unknown (one picture)" if result.image_gap is None else f"{result.image_gap:+.4f}"
            logger.info(f"epoch {epoch}: validation loss {result.loss:.4f}, image gap {gap}")
            for path, caption, _ in result.samples:
                logger.info(f"  {path}: {caption}")
            if epoch == self.settings.epochs and result.image_gap is not None and result.image_gap < SMALL_GAP:
                logger.warning(
                    f"the image gap is {gap}: the model hardly looks at the pictures; train longer, or see that "
                    "captions and pictures belong together"
                )
        state.epoch, state.batch = epoch, 0
        state.epochs_since_best += 1
        # Without validation the newest is taken for the best.
        if result is None or state.best is None or result.loss < state.best:
            state.best, state.epochs_since_best = result.loss if result else None, 0
            if self.world.first:
                save_checkpoint(self.folder.best, self.model, self.tokenizer, self._described(epoch))
        self._save_last()
        if self.world.first:
            self.folder.draw_curves()
        if self.finished and epoch < self.settings.epochs:
            epochs = plural(state.epochs_since_best, "epoch")
            logger.info(f"the validation loss was lowest {epochs} ago: the run ends here (`patience`)")

    def _save_last(self) -> None:
        self._read()
        self._saved_at = time.monotonic()
        if not self.world.first:
            return
        state = training_state(self.engine, self.state)
        save_checkpoint(self.folder.last, self.model, self.tokenizer, self._described(self.state.epoch), state)

    def _described(self, epoch: int) -> CheckpointConfig:
        state = self.state
        return replace(self.checkpoint, progress={"step": state.step, "epoch": epoch, "best_val_loss": state.best})

    def _log_training(self, rate: float) -> None:
        state = self.state
        self._log(
            {
                "step": state.step,
                "epoch": state.epoch + 1,
                "train_loss": state.loss_sum / max(1, state.loss_tokens),
                "lr": self.engine.optimizer.param_groups[0]["lr"],
                "captions_per_second": round(rate, 2),
            }
        )
        state.loss_sum, state.loss_tokens = 0.0, 0

    def _log(self, line: dict[str, Any]) -> None:
        if not self.world.first:
            return
        self.folder.log(line)
        if self.tracker is not None:
            figures = {name: value for name, value in line.items() if isinstance(value, int | float)}
            self.tracker.log({name: value for name, value in figures.items() if name != "step"}, line["step"])

    def _request_stop(self) -> None:
        if not self._stop:  # torchrun sends SIGTERM behind a Ctrl-C
            logger.info("stopping after this step, and saving; Ctrl-C again stops at once")
        self._stop = True


def _rest(validation: dict[str, Any]) -> dict[str, Any]:
    samples = [dict(zip(("path", "caption", "reference"), sample, strict=True)) for sample in validation["samples"]]
    return {"image_gap": validation["image_gap"], "samples": samples}
