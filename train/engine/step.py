"""The engine makes optimiser steps. It knows nothing of epochs, validations, files and command lines.

A step trains on one batch of captions:

    batch -> this process's part -> micro-batches, one after the other: loss and backward pass
          -> gradients averaged over processes -> norm -> clipping, update (optimizer.py)
          -> the weights' average over the steps, if there is one (average.py) -> StepResult

*Micro-batches* are the pieces into which a batch is cut where memory is short. Their losses are all divided by the
tokens of the whole batch, so that their summed gradients are those of the batch in one piece: the step is the same,
and only the peak of memory is lower. Their number is measured before the first step, or set by `accumulate`.

*Waiting.* On a GPU, `step` only queues the work and returns at once, so that the GPU computes one step while Python
lays out the next one. The only wait is `finish`, for the result of that one step. With fp16, the loss scale of a step
depends on the result of the step before, so each result must be finished before the next step (`runs_ahead` is False).
On other devices a step is done when `step` returns.
"""

import logging
import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from clipcap.data.errors import ClipCapError
from clipcap.data.pretrained.device import autocast
from clipcap.train.corpus.captions import Corpus
from clipcap.train.engine.average import Average
from clipcap.train.engine.distributed import World
from clipcap.train.engine.memory import micro_batches_that_fit
from clipcap.train.engine.optimizer import Optimizer
from clipcap.train.engine.result import FIRST_LOSS_SCALE, LEAST_LOSS_SCALE, LossScale, StepResult
from clipcap.train.model.captioning import ClipCapModel
from clipcap.train.packed.loss import PackedLoss, products_dtype
from clipcap.train.settings import TrainSettings

logger = logging.getLogger(__name__)

CLIP_NORM = 1.0
WEIGHT = "weight."  # how the names of weights in the state begin

Numbers = NDArray[np.int64]


class Engine:
    """Makes the optimiser steps of one model.

    Args:
        model: on `device`, with `requires_grad` set on the weights that train.
        settings: settings of the run.
        device: the model's device.
        world: this process among those that train the model.
        reserved: bytes of memory that micro-batches must leave free.

    Attributes:
        optimizer: updates the weights.
        average: the weights' average over the steps; None without `ema`.
        micro_batches: how many micro-batches a batch is cut into; 0 until the first step measures it.
        loss_scale: the loss scale of fp16.
        runs_ahead: whether the next step may start before the result of this one is finished.
    """

    def __init__(
        self, model: ClipCapModel, settings: TrainSettings, device: torch.device, world: World, *, reserved: int = 0
    ) -> None:
        self.reserved = reserved
        self.model, self.settings, self.device, self.world = model, settings, device, world
        if settings.tune == "none" and not settings.init:  # checkpoints do not hold this language model
            _narrow(model.gpt.transformer.h, device, settings.precision)
        if device.type == "cpu":
            for parameter in model.parameters():  # loaded weights map a file; a page is copied when it is first written
                if parameter.requires_grad:
                    parameter.data = parameter.data.clone()
        self.optimizer = Optimizer(model, settings)
        self.micro_batches = settings.accumulate
        self.loss_scale = LossScale(FIRST_LOSS_SCALE if settings.precision == "fp16" else 1.0)
        self.runs_ahead = device.type == "cuda" and settings.precision != "fp16"
        self._loss = PackedLoss(model, settings.label_smoothing)
        self._parallel = world.wrap(self._loss, device)  # from here on, all processes have the same weights
        self.average = Average(model, settings.ema) if settings.ema else None

    @property
    def evaluated(self) -> ClipCapModel:
        """The model that is validated and saved: with `ema` the average, else the model itself."""
        return self.model if self.average is None else self.average.model

    def step(self, corpus: Corpus, captions: Numbers, *, rate: float, number: int) -> StepResult:
        """Train on one batch. A step whose loss or gradient is not finite changes no weight.

        Args:
            corpus: the captions, on the device.
            captions: int64 (B), the numbers of the batch's captions in the corpus.
            rate: learning rate.
            number: the step's number. With the run's seed, it alone decides what dropout drops.

        Returns:
            The result, which `finish` reads.

        Raises:
            ClipCapError: one caption alone does not fit into memory.
        """
        tokens = int(corpus.length[captions].sum())
        if not self.micro_batches:
            self.micro_batches = self._choose_micro_batches(corpus)
        while True:
            torch.manual_seed(self._random_seed(number))
            try:
                loss = self._accumulate(corpus, captions, tokens)
                break
            except torch.OutOfMemoryError:
                pass  # the exception holds all activations, and must be gone before memory is freed
            self._split_further()
        norm = self._norm() / self.loss_scale.scale
        divisor = self.loss_scale.scale * (norm / CLIP_NORM).clamp(min=1)
        self.optimizer.step(rate, divisor, ~norm.isfinite())
        if self.average is not None:
            self.average.update(number)
        return StepResult(torch.stack([self.world.sum(loss), norm]), number, tokens)

    def finish(self, result: StepResult) -> float:
        """Read the result of a step, and adapt the loss scale of fp16 to it. Results are finished in order.

        Returns:
            The mean loss in nats a token. With fp16 it may be infinite, if the loss scale was too large for the step,
            which then changed no weight; the next steps have a smaller scale.

        Raises:
            ClipCapError: the loss or the gradient is not finite, and not for a loss scale that is too large: training
                has diverged. The weights are those from before the step.
        """
        loss, norm = result.read()
        finite = math.isfinite(loss) and math.isfinite(norm)
        half = self.settings.precision == "fp16"
        if half:
            self.loss_scale.update(finite)
        if not finite and (not half or self.loss_scale.scale < LEAST_LOSS_SCALE):
            raise self.diverged(f"at step {result.number + 1} the loss is {loss} and the gradient's norm {norm}")
        return loss

    def check_weights(self) -> None:
        """Check that all trained weights are finite, in one pass over them that allocates nothing.

        Raises:
            ClipCapError: one is not: training has diverged.
        """
        # A sum is NaN or infinite if one of its terms is. It also overflows if they are as large as 1e38.
        with torch.no_grad():
            sums = torch.stack([parameter.sum().float() for parameter in self.optimizer.parameters.values()])
        if not bool(sums.isfinite().all()):
            name = list(self.optimizer.parameters)[int((~sums.isfinite()).nonzero()[0])]
            raise self.diverged(f"the weights of {name} are not finite")

    def diverged(self, fact: str) -> ClipCapError:
        """Return the error of a run that cannot go on, for the given fact."""
        way_out = f"start again with a lower `lr` than {self.settings.lr}; earlier checkpoints are kept"
        return ClipCapError(f"training has diverged: {fact}; {way_out}")

    def state_dict(self) -> dict[str, Any]:
        """Return all state besides the weights of `evaluated` that later steps depend on.

        Returns:
            `micro_batches`, `loss_scale` and `good_steps` as numbers, and `tensors`: the optimiser's moments and, with
            `ema`, the weights that train, such as `weight.clip_project.model.0.weight`, on the CPU.
        """
        scale = self.loss_scale
        tensors = self.optimizer.moments()
        if self.average is not None:
            weights = self.optimizer.parameters.items()
            tensors.update({f"{WEIGHT}{name}": weight.detach().cpu() for name, weight in weights})
        return {
            "micro_batches": self.micro_batches,
            "loss_scale": scale.scale,
            "good_steps": scale.good_steps,
            "tensors": tensors,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` returned.

        Raises:
            KeyError, ValueError: something is missing, or does not have the shape of its parameter.
        """
        tensors = state["tensors"]
        self.optimizer.load_moments(tensors)
        if self.average is not None:
            for name, weight in self.optimizer.parameters.items():
                stored = tensors[f"{WEIGHT}{name}"]
                if stored.shape != weight.shape:
                    raise ValueError(f"{WEIGHT}{name} has another shape than it")
                weight.data.copy_(stored)
        most = max(self.settings.batch_size, self.settings.accumulate)
        if not 0 <= state["micro_batches"] <= most:
            raise ValueError(f"{state['micro_batches']} micro-batches of {self.settings.batch_size} captions")
        self.micro_batches = int(state["micro_batches"])
        self.loss_scale = LossScale(float(state["loss_scale"]), int(state["good_steps"]))

    def _random_seed(self, number: int) -> int:
        """Return the seed of a step's dropout in this process."""
        sequence = np.random.SeedSequence([self.settings.seed, number, self.world.rank])
        return int(sequence.generate_state(1, dtype=np.uint64)[0])

    def _choose_micro_batches(self, corpus: Corpus) -> int:
        each = math.ceil(self.settings.batch_size / self.world.size)
        try:
            count = micro_batches_that_fit(
                self._loss,
                corpus,
                each,
                self.device,
                self.settings.precision,
                self.settings.sampling,
                reserved=self.reserved,
            )
        except torch.OutOfMemoryError:
            count = each
        count = self.world.max(count, self.device)  # the same in all processes, since a resumed run reads one number
        if count > 1:
            logger.info(f"memory is short: the {each:,} captions of a step go {math.ceil(each / count):,} at a time")
        return count

    def _accumulate(self, corpus: Corpus, captions: Numbers, tokens: int) -> torch.Tensor:
        """Accumulate the gradients of the batch's mean loss a token; return this process's part of that loss."""
        shard = self.world.shard(captions)
        micro_batches = [some for some in np.array_split(shard, self.micro_batches) if len(some)]
        weight = 1.0 if self.world.rank < len(captions) else 0.0  # a process without captions gets one, with weight 0
        total = torch.zeros((), device=self.device)
        scale = weight * self.loss_scale.scale * self.world.size / tokens  # gradients are averaged over processes
        for index, some in enumerate(micro_batches):
            self._sync_gradients(index == len(micro_batches) - 1)
            batch = corpus.packed(some, self.model.clip_project.config.prefix_length)
            with autocast(self.device, self.settings.precision):
                loss = self._parallel(batch, scale)
            loss.backward()
            total = total + loss.detach() / (self.loss_scale.scale * self.world.size)
        return total

    def _sync_gradients(self, on: bool) -> None:
        if self.world.size > 1:
            # As DistributedDataParallel.no_sync sets it.
            self._parallel.require_backward_grad_sync = on  # type: ignore[assignment]

    def _norm(self) -> torch.Tensor:
        gradients = [p.grad for p in self.optimizer.parameters.values() if p.grad is not None]
        if self.device.type == "cpu":  # three times as fast there, and exact enough for a threshold
            return torch.stack([g.flatten().dot(g.flatten()) for g in gradients]).sum().sqrt()
        return torch.nn.utils.get_total_norm(gradients)

    def _split_further(self) -> None:
        """Double the number of micro-batches, since the GPU ran out of memory.

        Raises:
            ClipCapError: a micro-batch has one caption already, or other processes wait for this one.
        """
        each = math.ceil(self.settings.batch_size / self.world.size / self.micro_batches)
        if each == 1 or self.world.size > 1:
            fact = f"{each:,} captions at a time do not fit into the memory of {self.device}"
            raise ClipCapError(f"{fact}; start again with a smaller `batch_size` or a larger `accumulate`")
        self.optimizer.forget_gradients()
        torch.cuda.empty_cache()
        self.micro_batches *= 2
        logger.info(f"out of memory with {each:,} captions at a time; trying {math.ceil(each / 2):,}")


def _narrow(blocks: nn.Module, device: torch.device, precision: str) -> None:
    """Store frozen matrices in the dtype of the matrix products: half the memory, no conversions."""
    with autocast(device, precision):
        dtype = products_dtype(device)
    for parameter in blocks.parameters():
        if dtype is not None and parameter.ndim > 1:
            parameter.data = parameter.data.to(dtype)
