"""Several processes that train one model, one on each GPU, as `torchrun --nproc-per-node N` starts them.

Every process reads the cache and computes the same validations; each trains on its part of every batch. Only the
first one writes and speaks.
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
    """This process among all.

    Attributes:
        rank: its number, from 0.
        size: how many there are.
    """

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this process writes and speaks."""
        return self.rank == 0

    def wait(self) -> None:
        """Go on when all have come here."""
        if self.size > 1:
            dist.barrier()

    def shard(self, captions: Numbers) -> Numbers:
        """This process's part of a batch; where there are fewer captions than processes, one that does not count."""
        mine = np.array_split(captions, self.size)[self.rank]
        return mine if len(mine) else captions[:1]

    def leave(self) -> None:
        """The end, which all come to."""
        if self.size > 1:
            dist.barrier()
            dist.destroy_process_group()

    def sum(self, numbers: torch.Tensor) -> torch.Tensor:
        """Add the numbers of all processes, in place."""
        if self.size > 1:
            dist.all_reduce(numbers)
        return numbers

    def any_rank(self, flag: bool, device: torch.device) -> bool:
        """Whether it is so in any process."""
        return flag if self.size == 1 else bool(self.sum(torch.tensor(float(flag), device=device)))

    def max(self, number: int, device: torch.device) -> int:
        """The largest of all processes' numbers."""
        if self.size == 1:
            return number
        largest = torch.tensor(number, device=device)
        dist.all_reduce(largest, op=dist.ReduceOp.MAX)
        return int(largest)

    def broadcast(self, thing: Thing) -> Thing:
        """What the first process has, instead of what this one has."""
        things = [thing]
        if self.size > 1:
            dist.broadcast_object_list(things, src=0)
        return things[0]

    def wrap(self, module: nn.Module, device: torch.device) -> nn.Module:
        """The module, its gradients averaged over all processes in `backward`; its weights are those of the first."""
        if self.size == 1:
            return module
        where: dict[str, Any] = {"device_ids": [device.index]} if device.type == "cuda" else {}
        return DistributedDataParallel(module, gradient_as_bucket_view=True, **where)


def join_world(device: torch.device) -> tuple[World, torch.device]:
    """Join the other processes, if torchrun started some.

    Args:
        device: that was chosen; of several GPUs, each process takes the one that torchrun means for it.

    Returns:
        This process among all, and its device, with its number where it is a GPU.

    Raises:
        UsageError: there are more processes than GPUs, or no torchrun, or no way to talk on this device.
    """
    alone = int(os.environ.get("WORLD_SIZE", "1")) == 1
    if device.type == "cuda":
        number = device.index or 0 if alone else int(os.environ.get("LOCAL_RANK", "0"))
        if number >= torch.cuda.device_count():
            raise UsageError(
                f"this is process {number + 1} here, and there are {torch.cuda.device_count()} GPUs; give torchrun "
                "--nproc-per-node as many as there are"
            )
        device = torch.device("cuda", number)
        torch.cuda.set_device(device)
    if alone:
        return World(), device
    if device.type == "mps" or "RANK" not in os.environ:
        raise UsageError(
            "several processes train together on GPUs of NVIDIA or on the CPU, started by torchrun; start one without "
            "WORLD_SIZE, or with --device cpu"
        )
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return World(dist.get_rank(), dist.get_world_size()), device
