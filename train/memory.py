"""How much memory there is, and how much of it captions take in training."""

import math
import os
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch

from clipcap.data.device import autocast
from clipcap.train.corpus import Corpus
from clipcap.train.packed import PackedLoss

CACHE_PART = 0.5  # of free memory, that the embeddings may take; more of them are streamed
STEP_PART = 0.8  # of what is left, that the captions of a step may take; more of them go one part after the other
SAFETY = 1.25  # the backward pass holds gradients of activations beside them
PROBE = 32  # captions that are measured
STATE_BYTES = 12  # of each trained number: its gradient and two moments, float32


def free_bytes(device: torch.device) -> int:
    """Memory that is free on a device; a large number where nobody knows."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        fraction = torch.cuda.get_per_process_memory_fraction(device)
        allowed = int(torch.cuda.get_device_properties(device).total_memory * fraction)
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return min(free + unused, allowed - torch.cuda.memory_allocated(device))
    with suppress(OSError, ValueError, StopIteration):  # Linux
        lines = Path("/proc/meminfo").read_text().splitlines()
        return 1024 * int(next(line for line in lines if line.startswith("MemAvailable:")).split()[1])
    with suppress(OSError, ValueError):  # macOS has no figure of what is free
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    return 1 << 40


def parts_that_fit(loss: PackedLoss, corpus: Corpus, batch_size: int, device: torch.device, precision: str) -> int:
    """Into how many parts, one after the other, a batch goes so that it fits into memory.

    Measured, not guessed: what a few captions leave behind for the backward pass, for whatever mapper and tuning. The
    weights' gradients, the optimiser's moments and one part of the logits are taken off what is free first.
    """
    length = np.sort(corpus.length)[-max(PROBE, batch_size) :]  # as if a batch were of the longest captions
    probe = np.argsort(corpus.length, kind="stable")[-PROBE:]
    prefix_length = loss.model.clip_project.config.prefix_length
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    weights = {parameter.untyped_storage().data_ptr() for parameter in loss.parameters()}
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), autocast(device, precision):
        loss(corpus.packed(probe, prefix_length))
    trained = sum(parameter.numel() for parameter in loss.parameters() if parameter.requires_grad)
    fixed = 2 * sum(parameter.numel() for parameter in loss.parameters())  # the weights again, in 16 bits
    activations = sum(size for size in kept.values()) - fixed
    each = max(1.0, SAFETY * activations / len(probe)) * float(length.mean() / corpus.length[probe].mean())
    room = STEP_PART * (free_bytes(device) - STATE_BYTES * trained - fixed)
    at_once = max(1, min(batch_size, int(room / each)))
    return math.ceil(batch_size / at_once)
