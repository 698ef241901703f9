"""Dropout with a fast mask generator for CPUs.

On a CPU, torch draws random numbers one by one, and compares and selects without vector instructions. Here 64 random
bits make one number of 64 bits, two of 32 or four of 16, and a bitwise `and` zeroes what is dropped:

    random bits, 16 for each number    0x1a2f  0xc3d4  0x7213  0x9b88
    mask with p = 0.1                  0xffff  0xffff  0x0000  0xffff       the signed 0x7213 is in the highest tenth
    x & mask                           x0      x1      0       x3           then times 1 / (1 - p)

Other devices use torch's dropout.
"""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

_INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}  # by the bytes of a number


def dropout(x: torch.Tensor, p: float, training: bool) -> torch.Tensor:
    """Apply dropout like `F.dropout`.

    Args:
        x: float, any shape.
        p: probability with which a number becomes zero. For 16-bit numbers on a CPU it is rounded to a multiple of
            1 / 32,768.
        training: whether dropout is applied at all.

    Returns:
        float, of the shape of `x`; `x` itself if nothing is dropped.
    """
    if not training or not p:
        return x
    if x.device.type != "cpu":
        return F.dropout(x, p)
    dropped: torch.Tensor = _Dropout.apply(x, p)
    return dropped


def draw_kept(x: torch.Tensor, p: float) -> tuple[torch.Tensor, float]:
    """Draw a mask of the numbers that dropout keeps, on a CPU. It depends on torch's seed.

    Args:
        x: float, any shape.
        p: probability with which a number is dropped.

    Returns:
        The mask, integers of the shape and size of `x` with all bits set where a number is kept and none where it is
        dropped; and the factor for the numbers that are kept.
    """
    integer = _INTEGERS[x.element_size()]
    half = -(torch.iinfo(integer).min // 2)
    dropped = round(p * 2 * half)
    # SFC64 takes half the time of torch's own generator.
    generator = np.random.Generator(np.random.SFC64(int(torch.randint(2**62, ()))))
    count = -(-x.numel() * x.element_size() // 8)
    bits = torch.from_numpy(generator.integers(-(2**63), 2**63, count, dtype=np.int64))
    number = bits.view(integer)[: x.numel()].view(x.shape)
    number >>= 1  # uniform from -half to half - 1
    number += dropped - half  # negative where the number is kept
    number >>= 8 * x.element_size() - 1  # the sign bit, copied to all bits
    return number, 2 * half / (2 * half - dropped)


def keep(x: torch.Tensor, kept: torch.Tensor | None) -> torch.Tensor:
    """Zero what a mask drops.

    Args:
        x: float, any shape.
        kept: the mask that `draw_kept` returns; None keeps everything.

    Returns:
        A copy of `x` with zeros, or `x` itself if `kept` is None.
    """
    return x if kept is None else (x.view(kept.dtype) & kept).view(x.dtype)


class _Dropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, p: float) -> torch.Tensor:
        kept, ctx.scale = draw_kept(x, p)
        ctx.save_for_backward(kept)
        return keep(x, kept).mul_(ctx.scale)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        (kept,) = ctx.saved_tensors
        return keep(gradient.contiguous(), kept).mul_(ctx.scale), None
