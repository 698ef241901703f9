"""Dropout for a CPU: torch draws its random numbers one by one, and compares and selects without vector instructions.

Here they are drawn 64 bits at a time, four or two numbers in one, and what is dropped is masked out bit by bit.
"""

from typing import Any

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


class _Dropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, part: float) -> torch.Tensor:
        integer = _INTEGERS[x.element_size()]
        largest = torch.iinfo(integer).max
        threshold = round(part * (largest + 1))
        bits = torch.empty(-(-x.numel() * x.element_size() // 8), dtype=torch.int64).random_(-(2**63), None)
        number = bits.view(integer)[: x.numel()].view(x.shape)
        number &= largest  # 0 to largest, each as likely
        # Negative below the threshold; the sign, shifted over all bits, is 0 where it is kept and ones where dropped.
        kept = (number.sub_(threshold) >> (8 * x.element_size() - 1)).bitwise_not_()
        ctx.save_for_backward(kept)
        ctx.scale = (largest + 1) / (largest + 1 - threshold)
        return _masked(x, kept, ctx.scale)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        (kept,) = ctx.saved_tensors
        return _masked(gradient.contiguous(), kept, ctx.scale), None


def _masked(x: torch.Tensor, kept: torch.Tensor, scale: float) -> torch.Tensor:
    return (x.view(kept.dtype) & kept).view(x.dtype).mul_(scale)
