"""The training loop: epochs of steps, a validation after each, checkpoints, and resuming as if it had not stopped.

It knows nothing of command lines and of the cache's format.
"""

import logging
import math
import time
from collections import deque
from dataclasses import asdict
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from clipcap.data.command.progress import Progress
from clipcap.data.errors import ClipCapError
from clipcap.data.memory import exhausted_memory
from clipcap.train.checkpoints import Checkpoints
from clipcap.train.corpus.captions import Corpus
from clipcap.train.corpus.embeddings import CachedEmbeddings, StreamedEmbeddings
from clipcap.train.corpus.sampler import epoch_batches
from clipcap.train.engine.distributed import World
from clipcap.train.engine.result import StepResult
from clipcap.train.engine.step import Engine
from clipcap.train.model.captioning import ClipCapModel, train_mode
from clipcap.train.run.interrupt import on_interrupt
from clipcap.train.run.reporting import Reporter
from clipcap.train.run.state import State, TrainState, damaged
from clipcap.train.score import score_bytes
from clipcap.train.settings import TrainSettings, lr_factor
from clipcap.train.validate import Validation, validate

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

LOG_EVERY = 50  # steps between two lines of metrics.jsonl
STOP_EVERY = 10  # steps after which several processes on GPUs ask each other whether one was interrupted
SAVE_EVERY = 600.0  # seconds between two checkpoints within an epoch

Numbers = NDArray[np.int64]


class Trainer:
    """Trains one model on one corpus, and writes into one folder.

    Args:
        model: the model on `device`, with `requires_grad` set on the weights that train.
        tokenizer: turns the tokens of samples into text.
        train: captions to train on, on `device`.
        val: captions to validate on, on `device`; None if the cache has no validation split.
        settings: settings of the run.
        checkpoints: writes the checkpoints, and decides which one is the best.
        reporter: reports the run.
        device: the model's device.
        world: this process among those that train the model.

    Attributes:
        state: how far the loop is.
        engine: makes the steps.
    """

    def __init__(
        self,
        *,
        model: ClipCapModel,
        tokenizer: "PreTrainedTokenizerBase",
        train: Corpus,
        val: Corpus | None,
        settings: TrainSettings,
        checkpoints: Checkpoints,
        reporter: Reporter,
        device: torch.device,
        world: World,
    ) -> None:
        self.model, self.tokenizer, self.train, self.val = model, tokenizer, train, val
        self.settings, self.checkpoints, self.reporter = settings, checkpoints, reporter
        self.folder, self.device, self.world = checkpoints.folder, device, world
        self.state = TrainState()
        self.steps_per_epoch = math.ceil(len(train) / settings.batch_size)
        self.total_steps = self.steps_per_epoch * settings.epochs
        self.warmup_steps = settings.warmup_steps(self.total_steps)
        reserved = score_bytes(model) if settings.metric != "loss" else 0
        self.engine = Engine(model, settings, device, world, reserved=reserved)
        self._validation: Validation | None = None  # the last one
        self._stop_requested = False  # set by the signal handler, at any moment, and by nothing else
        self._unfinished: deque[StepResult] = deque()
        self._saved_at = time.monotonic()

    def state_dict(self) -> State:
        """Return all state besides the weights of a checkpoint: `loop`, fields of `TrainState`, and `engine`'s own."""
        return {"loop": asdict(self.state), "engine": self.engine.state_dict()}

    def load_state_dict(self, state: State) -> None:
        """Take over what `state_dict` returned.

        Raises:
            KeyError, TypeError, ValueError: something is missing, or does not fit the model.
        """
        loop = TrainState(**state["loop"])
        self.engine.load_state_dict(state["engine"])
        self.state = loop

    def resume(self) -> None:
        """Load the weights and the state of the folder's `last` checkpoint.

        Raises:
            CheckpointError: it is damaged, of a model of another shape, or its language model has changed since.
        """
        state = self.checkpoints.load_last(self.engine.evaluated)
        try:
            self.load_state_dict(state)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            if exhausted_memory(error):
                raise
            raise damaged(self.folder.last, error) from error

    def run(self) -> bool:
        """Train to the end, or until the first Ctrl-C.

        Returns:
            Whether the run is finished. If not, `last` holds everything that `resume` needs.

        Raises:
            ClipCapError: training has diverged, a caption does not fit into memory, or a file cannot be written.
                Earlier checkpoints stay.
        """
        if self.world.first:
            scored = self.state.epoch - (self.state.score_step is not None)
            self.folder.forget_after(self.state.step, self.state.epoch, scored)
        with (
            on_interrupt(self._request_stop),
            Progress("training", "steps", self.total_steps, self.state.step) as progress,
            self.checkpoints,
        ):
            self.checkpoints.start_score(self.state, self.engine.evaluated)
            while not self.finished:
                if self._no_epoch_left:  # only the score of the last one is missing
                    if not self._finish_score():
                        return False
                    continue
                try:
                    stopped = self._epoch(progress)
                    if not stopped:
                        self.checkpoints.collect_score(self.state)
                    # Rank 0's result counts for all: the last bits may differ between machines.
                    result = None if stopped else self.world.broadcast(self._validate())
                except (MemoryError, RuntimeError) as error:  # torch's own is a RuntimeError
                    if not exhausted_memory(error):
                        raise
                    fact = f"{self.device} is out of memory with {self.settings.batch_size} captions"
                    raise ClipCapError(f"{fact}; start again with a smaller `batch_size`, and `overwrite`") from error
                if stopped or self._any_stop():  # an interrupted validation has no result, and is made again
                    if self.state.batch or self.state.score_step is None:  # else `last` holds all of it already
                        self._save()
                    return False
                self._finish_epoch(result)
            self.reporter.end(
                self._validation,
                early=self.state.epoch < self.settings.epochs,
                metric=self.settings.metric,
                epochs_since_best=self.state.epochs_since_best,
            )
        return True

    @property
    def finished(self) -> bool:
        """Whether all epochs are done and decided on, or the run ended early by `patience`."""
        return self._no_epoch_left and self.state.score_step is None

    @property
    def _no_epoch_left(self) -> bool:
        patience = self.settings.patience
        return self.state.epoch >= self.settings.epochs or bool(patience and self.state.epochs_since_best >= patience)

    def _epoch(self, progress: Progress) -> bool:
        """Make the remaining steps of this epoch; return whether an interrupt stopped them."""
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
        if isinstance(embedding, CachedEmbeddings):
            embedding.draw(settings.seed, state.epoch)
        if isinstance(embedding, StreamedEmbeddings) and batches:
            embedding.expect(self.train.image[np.concatenate([self.world.shard(batch) for batch in batches])])
        train_mode(self.model)
        started, captions = time.monotonic(), 0
        for number, batch in enumerate(batches):
            # Asking several GPUs means to wait for all of them, so that is done rarely.
            asks = self.world.size == 1 or self.device.type == "cpu" or state.step % STOP_EVERY == 0
            if asks and self._any_stop():
                self._finish_steps()
                return True
            self._unfinished.append(self._step(batch))
            state.step += 1
            state.batch += 1
            captions += len(batch)
            # A GPU computes this step while the result of the last one is read and the next batch is laid out.
            loss = self._finish_steps(leave=1 if self.engine.runs_ahead and number + 1 < len(batches) else 0)
            if loss is not None:
                progress.advance(remark=f"epoch {state.epoch + 1}/{settings.epochs}, loss {loss:.3f}")
            if state.step % LOG_EVERY == 0 or number + 1 == len(batches):
                self._finish_steps()
                self._log_training(captions / (time.monotonic() - started))
                started, captions = time.monotonic(), 0
            if time.monotonic() - self._saved_at > SAVE_EVERY:
                self._save()
        return False

    def _step(self, captions: Numbers) -> StepResult:
        step = self.state.step
        return self.engine.step(self.train, captions, rate=self._rate(step), number=step)

    def _rate(self, step: int) -> float:
        return self.settings.lr * lr_factor(step, self.warmup_steps, self.total_steps, self.settings.schedule)

    def _finish_steps(self, leave: int = 0) -> float | None:
        """Finish all steps but the newest `leave`; return the loss of the last one finished, in nats a token.

        Raises:
            ClipCapError: training has diverged.
        """
        loss = None
        while len(self._unfinished) > leave:
            result = self._unfinished.popleft()
            loss = self.engine.finish(result)
            if math.isfinite(loss):
                self.state.loss_sum += loss * result.tokens
                self.state.loss_tokens += result.tokens
        return loss

    def _any_stop(self) -> bool:
        """Whether a process was interrupted. All get the same answer, and must act on it.

        The answer is never stored in the flag: an interrupt that arrives while the processes exchange their flags would
        be overwritten. It counts at the next question.
        """
        return self.world.any_rank(self._stop_requested, self.device)

    def _validate(self) -> Validation | None:
        if self.val is None or self._stop_requested:
            return None
        return validate(
            self.engine.evaluated,
            self.val,
            self.tokenizer,
            batch_size=self.settings.batch_size,
            device=self.device,
            precision=self.settings.precision,
            stopped=lambda: self._stop_requested,
        )

    def _finish_epoch(self, result: Validation | None) -> None:
        """Log the validation and save; the next epoch begins after this.

        Raises:
            ClipCapError: a loss or a weight is not finite: training has diverged. Nothing was written.
        """
        state = self.state
        epoch = state.epoch + 1
        if result is not None:
            losses = [result.loss, result.image_gap or 0.0]
            if not all(map(math.isfinite, losses)):
                fact = f"after epoch {epoch} the validation loss is {result.loss}"
                raise self.engine.diverged(f"{fact}, and the image gap {result.image_gap}")
        self.checkpoints.decide_by_score(state)
        if result is not None:
            self.reporter.validation(result, step=state.step, epoch=epoch)
        self._validation = result
        state.epoch, state.batch = epoch, 0
        is_best = self.checkpoints.decide_by_loss(state, result.loss if result else None)
        state.score_step = None if self.settings.metric == "loss" else state.step
        self._save(best=is_best)
        self.checkpoints.start_score(state, self.engine.evaluated)
        self.reporter.curves()

    def _finish_score(self) -> bool:
        """Decide on the score of the last epoch; return False if an interrupt came first, and nothing has changed.

        If it is the best, a run that `patience` would end goes on.
        """
        there = self.checkpoints.wait_for_score(lambda: self._stop_requested)
        if self._any_stop() or not there:
            return False
        self.checkpoints.collect_score(self.state)
        self.checkpoints.decide_by_score(self.state)
        self._save()
        self.reporter.curves()
        return True

    def _save(self, *, best: bool = False) -> None:
        """Write `last`, and before it `best` if this is the best model so far.

        Raises:
            ClipCapError: a weight is not finite, or a file cannot be written. The older checkpoints stay.
        """
        self._finish_steps()
        self.engine.check_weights()
        self.checkpoints.collect_score(self.state)
        self._saved_at = time.monotonic()
        if not self.world.first:
            return
        if best:
            self.checkpoints.save_best(self.engine.evaluated, self.state)
        self.checkpoints.save_last(self.engine.evaluated, self.state, self.state_dict())

    def _log_training(self, rate: float) -> None:
        """Log the mean loss since the last such line, and the speed in captions a second."""
        state = self.state
        self.reporter.training(
            step=state.step,
            epoch=state.epoch + 1,
            loss=state.loss_sum / max(1, state.loss_tokens),
            rate=self._rate(state.step - 1),
            captions_per_second=rate,
        )
        state.loss_sum, state.loss_tokens = 0.0, 0

    def _request_stop(self) -> None:
        if not self._stop_requested:  # torchrun sends SIGTERM after a Ctrl-C
            logger.info("stopping after this step, and saving; Ctrl-C again stops at once")
        self._stop_requested = True
