"""Dropout whose random numbers a CPU draws 64 bits at a time: torch draws them one by one, a tenth of a step's time."""

import torch
import torch.nn.functional as F


def dropout(x: torch.Tensor, part: float, training: bool) -> torch.Tensor:
    """As `F.dropout`; on a CPU with `part` rounded to a 65,536th."""
    if not training or not part:
        return x
    if x.device.type != "cpu":
        return F.dropout(x, part)
    dropped = round(part * 65536)
    numbers = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
    kept = numbers.view(torch.int16)[: x.numel()].view(x.shape) >= dropped - 32768
    return x * (kept.to(x.dtype) * (65536 / (65536 - dropped)))
