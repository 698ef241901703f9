"""Measures how much memory is free, and how much of it a caption takes in training."""

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

CACHE_PART = 0.5  # fraction of the free memory that embeddings may take; more of them are streamed
STEP_PART = 0.8  # fraction of the remaining memory that a micro-batch may take
SAFETY = 1.25  # the backward pass holds gradients of activations beside the activations
PLACES = 6  # places in the corpus where captions are measured
PROBE = {"image": 1, "caption": 5}  # images at each place, with all of their captions, or with one caption each
STATE_BYTES = 12  # for each trained number: its gradient and two moments, float32

Numbers = NDArray[np.int64]


def free_bytes(device: torch.device) -> int:
    """Return how many bytes of memory are free on a device; 2**40 where the system does not tell."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        fraction = torch.cuda.get_per_process_memory_fraction(device)
        allowed = int(torch.cuda.get_device_properties(device).total_memory * fraction)
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return min(free + unused, allowed - torch.cuda.memory_allocated(device))
    with suppress(OSError, ValueError, StopIteration):  # Linux
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        available = 1024 * int(next(line for line in lines if line.startswith("MemAvailable:")).split()[1])
        return available // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # torchrun's processes share it
    with suppress(AttributeError, OSError, ValueError):  # macOS only tells how much there is, Windows nothing
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    return 1 << 40


def micro_batches_that_fit(
    loss: PackedLoss,
    corpus: Corpus,
    batch_size: int,
    device: torch.device,
    precision: str,
    sampling: str,
    *,
    reserved: int = 0,
) -> int:
    """Return how many micro-batches a batch must be cut into, so that each fits into memory.

    The memory of a caption is measured rather than calculated, so that the figure holds for any mapper and tuning: one
    forward pass over the captions of some images, and one over half of them, count the bytes that they keep for the
    backward pass. The difference is what captions take, the rest is what a pass takes in any case. The gradients of the
    weights and the optimiser's moments, which do not exist yet, are subtracted from the free memory.

    Args:
        loss: the model with its loss.
        corpus: the captions to train on.
        batch_size: captions in a step of this process.
        device: the model's device.
        precision: `fp32`, `bf16` or `fp16`.
        sampling: `image` or `caption`; decides how many captions share a prefix.
        reserved: bytes that must stay free.

    Returns:
        From 1 to `batch_size`.
    """
    images, first = np.unique(corpus.image, return_index=True)
    places = np.arange(PLACES)[:, None] * len(images) // PLACES + np.arange(PROBE[sampling])
    chosen = np.unique(np.minimum(places, len(images) - 1))
    limit = PACK_CAPTIONS if sampling == "image" else 1
    captions = [np.arange(first[image], min(first[image] + limit, len(corpus))) for image in chosen]
    captions = [some[corpus.image[some] == corpus.image[some[0]]] for some in captions]
    probes = [np.concatenate(some) for some in (captions[: -(-len(captions) // 2)], captions)]
    few, many = (_kept_bytes(loss, corpus, probe, device, precision) for probe in probes)
    each = max(1.0, (many - few) / max(1, len(probes[1]) - len(probes[0])))
    # What a pass takes in any case: copies of the weights in 16 bits, and a part of the logits.
    weights = max(0.0, many - len(probes[1]) * each) + logits_bytes(device, loss.model.gpt.config.vocab_size)
    trained = sum(parameter.numel() for parameter in loss.parameters() if parameter.requires_grad)
    room = STEP_PART * (free_bytes(device) - reserved - STATE_BYTES * trained - weights)
    at_once = max(1, min(batch_size, int(room / (SAFETY * each))))
    return math.ceil(batch_size / at_once)


def _kept_bytes(loss: PackedLoss, corpus: Corpus, captions: Numbers, device: torch.device, precision: str) -> int:
    """Return the bytes that a forward pass keeps for the backward pass, besides the weights."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in loss.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    batch = corpus.packed(captions, loss.model.clip_project.config.prefix_length)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), autocast(device, precision):
        total = loss(batch)  # keeps the graph alive, and with it every storage, until all are counted
        found = sum(kept.values())
        del total
    return found
