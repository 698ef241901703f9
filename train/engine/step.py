"""One optimiser step on one batch: packed, in parts where memory is short, in several processes where there are some.

A GPU is given its next step while it computes this one: what a step found is read when it is there.
"""

import logging
import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from clipcap.data.errors import ClipCapError
from clipcap.data.pretrained.device import autocast
from clipcap.train.corpus.captions import Corpus
from clipcap.train.engine.distributed import World
from clipcap.train.engine.memory import micro_batches_that_fit
from clipcap.train.model.captioning import ClipCapModel
from clipcap.train.packed.loss import PackedLoss, products_dtype
from clipcap.train.settings import TrainSettings

logger = logging.getLogger(__name__)

CLIP_NORM = 1.0
# Of gradients in fp16, as torch.amp.GradScaler: doubled after so many good steps, halved after a bad one.
FIRST_LOSS_SCALE = 2.0**16
GROW_EVERY = 2000
LEAST_LOSS_SCALE = 2.0**-10

Numbers = NDArray[np.int64]


@dataclass
class LossScale:
    """What the loss is multiplied by so that fp16 can hold its gradients. 1 with other precisions, and for good.

    Attributes:
        scale: the factor.
        good_steps: steps since it last changed.
    """

    scale: float = 1.0
    good_steps: int = 0

    def update(self, finite: bool) -> None:
        """After a step."""
        self.good_steps = self.good_steps + 1 if finite else 0
        if not finite:
            self.scale /= 2
        elif self.good_steps == GROW_EVERY:
            self.scale, self.good_steps = self.scale * 2, 0


class StepResult:
    """What a step found: mean loss in nats a token and norm of its gradient, of all processes.

    Args:
        figures: both, on the device.
        tokens: of the batch.
    """

    def __init__(self, figures: torch.Tensor, tokens: int) -> None:
        self.tokens = tokens
        self._ready: torch.cuda.Event | None = None
        if figures.device.type == "cuda":
            self._figures = torch.empty(figures.shape, dtype=figures.dtype, pin_memory=True)
            self._figures.copy_(figures, non_blocking=True)
            self._ready = torch.cuda.Event()
            self._ready.record(torch.cuda.current_stream(figures.device))
        else:
            self._figures = figures

    def read(self) -> tuple[float, float]:
        """Loss and norm; waits for the step, and for no later one."""
        if self._ready is not None:
            self._ready.synchronize()
        loss, norm = self._figures.tolist()
        return loss, norm


class Engine:
    """Trains one model.

    Args:
        model: on `device`, with `requires_grad` set on what trains.
        settings: of the run.
        device: of the model.
        world: this process among those that train the model.

    Attributes:
        parameters: what trains, by name.
        optimizer: AdamW (arXiv:1711.05101).
        micro_batches: how many a batch is cut into; 0 until the first step, which measures it unless it is set before.
        loss_scale: see there.
    """

    def __init__(self, model: ClipCapModel, settings: TrainSettings, device: torch.device, world: World) -> None:
        self.model, self.settings, self.device, self.world = model, settings, device, world
        if settings.tune == "none" and not settings.init:  # else checkpoints hold the language model, as it was
            _narrow(model.gpt.transformer.h, device, settings.precision)
        trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        if device.type == "cpu":
            for _, parameter in trained:  # a file is mapped behind them; written to, it would be copied page by page
                parameter.data = parameter.data.clone()
        matrices = [(name, p) for name, p in trained if p.ndim > 1]
        vectors = [(name, p) for name, p in trained if p.ndim <= 1]  # biases and norms, which are not to decay
        self.parameters = dict(matrices + vectors)
        groups = [
            {"params": [p for _, p in matrices], "weight_decay": settings.weight_decay},
            {"params": [p for _, p in vectors], "weight_decay": 0.0},
        ]
        self.fused = device.type in ("cpu", "cuda")
        self.optimizer = torch.optim.AdamW(groups, lr=settings.lr, fused=self.fused)
        self.micro_batches = settings.accumulate
        self.loss_scale = LossScale(FIRST_LOSS_SCALE if settings.precision == "fp16" else 1.0)
        self._loss = PackedLoss(model, settings.label_smoothing)
        self._parallel = world.wrap(self._loss, device)

    def step(self, corpus: Corpus, captions: Numbers, *, rate: float, number: int) -> StepResult:
        """Train on one batch.

        Args:
            corpus: on the device.
            captions: int64 (B), their numbers.
            rate: learning rate.
            number: of the step. With the run's seed it decides what dropout drops, and nothing else does.

        Raises:
            ClipCapError: one caption alone does not fit into memory.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        tokens = int(corpus.length[captions].sum())
        if not self.micro_batches:
            self.micro_batches = self._choose_micro_batches(corpus)
        while True:
            torch.manual_seed(self._random_seed(number))
            try:
                loss = self._accumulate(corpus, captions, tokens)
                break
            except torch.OutOfMemoryError:
                pass  # first let go of the exception, which holds all that was computed
            self._split_further()
        norm = self._norm() / self.loss_scale.scale
        self._update(norm)
        return StepResult(torch.stack([self.world.sum(loss), norm]), tokens)

    def _random_seed(self, number: int) -> int:
        """Of a step's dropout, in this process."""
        sequence = np.random.SeedSequence([self.settings.seed, number, self.world.rank])
        return int(sequence.generate_state(1, dtype=np.uint64)[0])

    def _choose_micro_batches(self, corpus: Corpus) -> int:
        each = math.ceil(self.settings.batch_size / self.world.size)
        try:
            count = micro_batches_that_fit(
                self._loss, corpus, each, self.device, self.settings.precision, self.settings.sampling
            )
        except torch.OutOfMemoryError:
            count = each
        count = self.world.max(count, self.device)  # the same in all processes, since a resumed run reads one number
        if count > 1:
            logger.info(f"memory is short: the {each:,} captions of a step go {math.ceil(each / count):,} at a time")
        return count

    def _accumulate(self, corpus: Corpus, captions: Numbers, tokens: int) -> torch.Tensor:
        """Gradients of the mean loss over all tokens of the batch; returns this process's share of that mean."""
        mine = self.world.shard(captions)
        micro_batches = [some for some in np.array_split(mine, self.micro_batches) if len(some)]
        weight = 1.0 if self.world.rank < len(captions) else 0.0
        total = torch.zeros((), device=self.device)
        scale = weight * self.loss_scale.scale * self.world.size / tokens  # processes are averaged, not added
        for number, some in enumerate(micro_batches):
            self._sync_gradients(number == len(micro_batches) - 1)
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
        gradients = [p.grad for p in self.parameters.values() if p.grad is not None]
        if self.device.type == "cpu":  # three times as fast there, and as exact as a threshold needs
            return torch.stack([g.flatten().dot(g.flatten()) for g in gradients]).sum().sqrt()
        return torch.nn.utils.get_total_norm(gradients)

    def _update(self, norm: torch.Tensor) -> None:
        """Clip, and step; where the gradient is not finite, leave everything as it is."""
        divisor = self.loss_scale.scale * (norm / CLIP_NORM).clamp(min=1)
        bad = ~norm.isfinite()
        if self.fused:
            # What torch.amp.GradScaler hands to a fused optimiser: it then scales, and skips, as it steps.
            self.optimizer.grad_scale = divisor.float()  # type: ignore[attr-defined]
            self.optimizer.found_inf = bad.float()  # type: ignore[attr-defined]
            self.optimizer.step()
        elif not bad:
            for parameter in self.parameters.values():
                if parameter.grad is not None:
                    parameter.grad.div_(divisor)
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def _split_further(self) -> None:
        """A GPU's memory is not enough: half as many captions at a time.

        Raises:
            ClipCapError: it is one already, or other processes wait for this one.
        """
        each = math.ceil(self.settings.batch_size / self.world.size / self.micro_batches)
        if each == 1 or self.world.size > 1:
            fact = f"{each:,} captions at a time do not fit into the memory of {self.device}"
            raise ClipCapError(f"{fact}; start again with a smaller --batch-size or a larger --accumulate")
        self.optimizer.zero_grad(set_to_none=True)
        torch.cuda.empty_cache()
        self.micro_batches *= 2
        logger.info(f"out of memory with {each:,} captions at a time; trying {math.ceil(each / 2):,}")


def _narrow(blocks: nn.Module, device: torch.device, precision: str) -> None:
    """Keep frozen matrices as every product would round them anyway: half the memory, and nothing to convert."""
    with autocast(device, precision):
        dtype = products_dtype(device)
    for parameter in blocks.parameters():
        if dtype is not None and parameter.ndim > 1:
            parameter.data = parameter.data.to(dtype)
