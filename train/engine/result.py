"""What a step hands back: its loss and gradient norm, on their way from the device; and the loss scale that fp16 keeps.

Knows nothing of models and optimisers.
"""

from dataclasses import dataclass

import torch

# The loss scale of fp16 follows torch.amp.GradScaler: it doubles after this many good steps and halves after a bad one.
FIRST_LOSS_SCALE = 2.0**16
GROW_EVERY = 2000
LEAST_LOSS_SCALE = 2.0**-10


@dataclass
class LossScale:
    """The factor by which fp16 multiplies the loss, so that small gradients do not vanish. It is 1 otherwise.

    Attributes:
        scale: the factor.
        good_steps: steps since the factor last changed.
    """

    scale: float = 1.0
    good_steps: int = 0

    def update(self, finite: bool) -> None:
        """Adapt the factor to a step whose loss and gradient were finite, or were not."""
        self.good_steps = self.good_steps + 1 if finite else 0
        if not finite:
            self.scale /= 2
        elif self.good_steps == GROW_EVERY:
            self.scale, self.good_steps = self.scale * 2, 0


class StepResult:
    """The loss and the gradient's norm of a step, on their way from the device.

    Args:
        values: float32 (2), on the device: the mean loss in nats a token and the norm of the gradient before clipping,
            both of the whole batch.
        number: the step's number, from 0.
        tokens: tokens of the whole batch.
    """

    def __init__(self, values: torch.Tensor, number: int, tokens: int) -> None:
        self.number, self.tokens = number, tokens
        self._ready: torch.cuda.Event | None = None
        if values.device.type == "cuda":
            self._values = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
            self._values.copy_(values, non_blocking=True)
            self._ready = torch.cuda.Event()
            self._ready.record(torch.cuda.current_stream(values.device))
        else:
            self._values = values

    def read(self) -> tuple[float, float]:
        """Return the loss and the norm. On a GPU, wait for this step, but for no later one."""
        if self._ready is not None:
            self._ready.synchronize()
        loss, norm = self._values.tolist()
        return loss, norm
