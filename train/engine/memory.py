"""How much memory there is, and how much of it captions take in training."""

import math
import os
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from clipcap.data.pretrained.device import autocast
from clipcap.train.corpus.captions import Corpus
from clipcap.train.packed.cross_entropy import logits_bytes
from clipcap.train.packed.layout import PACK_CAPTIONS
from clipcap.train.packed.loss import PackedLoss

CACHE_PART = 0.5  # of free memory, that the embeddings may take; more of them are streamed
STEP_PART = 0.8  # of what is left, that the captions of a step may take; more of them go one part after the other
SAFETY = 1.25  # the backward pass holds gradients of activations beside them
PLACES = 6  # in the corpus, where captions are measured
PROBE = {"image": 1, "caption": 5}  # pictures side by side at each, with all their captions or one: a block or two
STATE_BYTES = 12  # of each trained number: its gradient and two moments, float32

Numbers = NDArray[np.int64]


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
        available = 1024 * int(next(line for line in lines if line.startswith("MemAvailable:")).split()[1])
        return available // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # torchrun's processes share it
    with suppress(OSError, ValueError):  # macOS has no figure of what is free
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    return 1 << 40


def micro_batches_that_fit(
    loss: PackedLoss, corpus: Corpus, batch_size: int, device: torch.device, precision: str, sampling: str
) -> int:
    """Into how many parts, one after the other, a batch goes so that it fits into memory.

    Measured, not guessed: what the captions of some pictures leave behind for the backward pass, and of half of them,
    for whatever mapper and tuning. The weights' gradients and the optimiser's moments are taken off what is free first.
    """
    images, first = np.unique(corpus.image, return_index=True)
    places = np.arange(PLACES)[:, None] * len(images) // PLACES + np.arange(PROBE[sampling])
    chosen = np.unique(np.minimum(places, len(images) - 1))
    most = PACK_CAPTIONS if sampling == "image" else 1
    captions = [np.arange(first[image], min(first[image] + most, len(corpus))) for image in chosen]
    captions = [some[corpus.image[some] == corpus.image[some[0]]] for some in captions]
    probes = [np.concatenate(some) for some in (captions[: -(-len(captions) // 2)], captions)]
    few, many = (_kept_bytes(loss, corpus, probe, device, precision) for probe in probes)
    each = max(1.0, (many - few) / max(1, len(probes[1]) - len(probes[0])))
    # What is kept whatever the captions: copies of the weights in 16 bits, and a part of the logits.
    weights = max(0.0, many - len(probes[1]) * each) + logits_bytes(device, loss.model.gpt.config.vocab_size)
    trained = sum(parameter.numel() for parameter in loss.parameters() if parameter.requires_grad)
    room = STEP_PART * (free_bytes(device) - STATE_BYTES * trained - weights)
    at_once = max(1, min(batch_size, int(room / (SAFETY * each))))
    return math.ceil(batch_size / at_once)


def _kept_bytes(loss: PackedLoss, corpus: Corpus, captions: Numbers, device: torch.device, precision: str) -> int:
    """What a forward pass leaves behind for the backward pass, besides the weights."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in loss.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    batch = corpus.packed(captions, loss.model.clip_project.config.prefix_length)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), autocast(device, precision):
        total = loss(batch)  # held: what is kept stays where it is until all is counted
        found = sum(kept.values())
        del total
    return found
