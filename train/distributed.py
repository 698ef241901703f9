"""Several processes that train one model, one on each GPU, as `torchrun --nproc-per-node N` starts them.

Every process reads the cache and computes the same validations; each trains on its part of every batch. Only the
first one writes and speaks.
"""

import os
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel


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

    def any(self, flag: bool, device: torch.device) -> bool:
        """Whether it is so in any process."""
        return flag if self.size == 1 else bool(self.sum(torch.tensor(float(flag), device=device)))

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
        This process among all, and its device.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return World(), device
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return World(dist.get_rank(), dist.get_world_size()), device
