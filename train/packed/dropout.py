"""Dropout for a CPU: torch draws its random numbers one by one, and compares and selects without vector instructions.

Here they are drawn 64 bits at a time, four or two numbers in one, and what is dropped is masked out bit by bit.
"""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

_INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}  # by the size of a number


def dropout(x: torch.Tensor, part: float, training: bool) -> torch.Tensor:
    """As `F.dropout`; on a CPU with `part` rounded to a 32,768th where `x` is in 16 bits."""
    if not training or not part:
        return x
    if x.device.type != "cpu":
        return F.dropout(x, part)
    dropped: torch.Tensor = _Dropout.apply(x, part)
    return dropped


def draw_kept(x: torch.Tensor, part: float) -> tuple[torch.Tensor, float]:
    """What to keep of numbers on a CPU when so many are dropped, and what the rest is to be multiplied by.

    Returns:
        Integers of the shape and size of `x`: all bits set where a number is kept, none where not. What they are
        depends on torch's seed.
    """
    integer = _INTEGERS[x.element_size()]
    half = -(torch.iinfo(integer).min // 2)
    dropped = round(part * 2 * half)
    # Half the time that torch's own generator takes.
    generator = np.random.Generator(np.random.SFC64(int(torch.randint(2**62, ()))))
    words = -(-x.numel() * x.element_size() // 8)
    bits = torch.from_numpy(generator.integers(-(2**63), 2**63, words, dtype=np.int64))
    number = bits.view(integer)[: x.numel()].view(x.shape)
    number >>= 1  # from -half to half - 1, each as likely
    number += dropped - half  # negative where it is kept
    number >>= 8 * x.element_size() - 1  # the sign, in all bits
    return number, 2 * half / (2 * half - dropped)


def keep(x: torch.Tensor, kept: torch.Tensor | None) -> torch.Tensor:
    """`x` with zeros where it is not kept; all of it is where `kept` is None."""
    return x if kept is None else (x.view(kept.dtype) & kept).view(x.dtype)


class _Dropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, part: float) -> torch.Tensor:
        kept, ctx.scale = draw_kept(x, part)
        ctx.save_for_backward(kept)
        return keep(x, kept).mul_(ctx.scale)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        (kept,) = ctx.saved_tensors
        return keep(gradient.contiguous(), kept).mul_(ctx.scale), None
