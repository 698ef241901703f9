"""Several processes that train one model, one on each GPU, as `torchrun --nproc-per-node N` starts them.

Every process reads the whole cache and computes every validation. Each trains on its shard of every batch, and
gradients are averaged, so that all have the same weights after each step. Only the first process, of rank 0, writes
files and logs.
"""

import os
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from clipcap.data.errors import UsageError

Thing = TypeVar("Thing")
Numbers = NDArray[np.int64]


@dataclass(frozen=True)
class World:
    """This process among those that train one model.

    Every process must call the methods that communicate (all but `first` and `shard`) in the same order. With one
    process they return at once. On GPUs, `any_rank` and `max` wait until the GPU has computed what was queued before.

    Attributes:
        rank: number of this process, from 0.
        size: number of processes.
    """

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this process writes and logs."""
        return self.rank == 0

    def wait(self) -> None:
        """Wait until all processes are here."""
        if self.size > 1:
            dist.barrier()

    def leave(self) -> None:
        """Wait until all processes are here, and end the communication."""
        if self.size > 1:
            dist.barrier()
            dist.destroy_process_group()

    def shard(self, captions: Numbers) -> Numbers:
        """Return this process's part of a batch.

        Args:
            captions: int64 (B), the batch.

        Returns:
            int64, at least one caption: with fewer captions than processes, the last processes get the first caption,
            whose loss they must multiply by 0.
        """
        shard = np.array_split(captions, self.size)[self.rank]
        return shard if len(shard) else captions[:1]

    def sum(self, numbers: torch.Tensor) -> torch.Tensor:
        """Add up a tensor over all processes, in place; on a GPU without a wait."""
        if self.size > 1:
            dist.all_reduce(numbers)
        return numbers

    def any_rank(self, flag: bool, device: torch.device) -> bool:
        """Return whether the flag is set in any process; every process gets the same answer."""
        return flag if self.size == 1 else bool(self.sum(torch.tensor(float(flag), device=device)))

    def max(self, number: int, device: torch.device) -> int:
        """Return the largest number of all processes."""
        if self.size == 1:
            return number
        largest = torch.tensor(number, device=device)
        dist.all_reduce(largest, op=dist.ReduceOp.MAX)
        return int(largest)

    def broadcast(self, thing: Thing) -> Thing:
        """Return the object that the first process gives."""
        things = [thing]
        if self.size > 1:
            dist.broadcast_object_list(things, src=0)
        return things[0]

    def wrap(self, module: nn.Module, device: torch.device) -> nn.Module:
        """Return the module with gradients that `backward` averages over processes, and the first one's weights."""
        if self.size == 1:
            return module
        options: dict[str, Any] = {"device_ids": [device.index]} if device.type == "cuda" else {}
        return DistributedDataParallel(module, gradient_as_bucket_view=True, **options)


def join_world(device: torch.device) -> tuple[World, torch.device]:
    """Join the other processes, if torchrun started some.

    Args:
        device: the chosen device. Of several GPUs, each process takes the one of its local rank.

    Returns:
        This process among all, and its device, with a number if it is a GPU.

    Raises:
        UsageError: there are more processes than GPUs, the processes were not started by torchrun, or they cannot
            communicate on this device.
    """
    alone = int(os.environ.get("WORLD_SIZE", "1")) == 1
    if device.type == "cuda":
        number = device.index or 0 if alone else int(os.environ.get("LOCAL_RANK", "0"))
        if number >= torch.cuda.device_count():
            raise UsageError(
                f"this is process {number + 1} on this machine, which has {torch.cuda.device_count()} GPUs; give "
                "torchrun --nproc-per-node at most as many"
            )
        device = torch.device("cuda", number)
        torch.cuda.set_device(device)
    if alone:
        return World(), device
    if device.type == "mps" or "RANK" not in os.environ:
        raise UsageError(
            "several processes train together on NVIDIA GPUs or on the CPU, started by torchrun; start one process "
            "without WORLD_SIZE, or give `device` cpu"
        )
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return World(dist.get_rank(), dist.get_world_size()), device
