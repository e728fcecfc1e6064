"""The ranks of a training run: whose part of a batch is whose, and the average of their gradients.

In: what torchrun set in the environment, read by accelerate; without it the run has one rank. Out: this process's
Ranks. Rules kept: all ranks draw the same resolution and subnets, so their gradients are of the same parameters; they
talk once a step (and inside batch norm, where that is asked for); only rank 0 writes and speaks. Tested with gloo on
CPUs; GPUs take the same way through NCCL, which no test has seen.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch import distributed as dist


@dataclass(frozen=True, slots=True)
class Ranks:
    """This process among all of a run, and the device it computes on."""

    rank: int = 0
    count: int = 1
    device: torch.device = torch.device("cpu")

    @classmethod
    def here(cls) -> Ranks:
        """This process, as torchrun or nobody started it."""
        if "WORLD_SIZE" not in os.environ and not torch.cuda.is_available():
            return cls()  # accelerate takes a second to import
        from accelerate import PartialState

        state = PartialState(cpu=not torch.cuda.is_available())
        return cls(state.process_index, state.num_processes, state.device)

    def __enter__(self) -> Ranks:
        return self

    def __exit__(self, *error: object) -> None:
        """Leave the group, so that no rank waits for one that failed."""
        if self.count > 1:
            dist.destroy_process_group()

    @property
    def main(self) -> bool:
        return self.rank == 0

    def part(self, size: int) -> slice:
        """This rank's places of a batch; the last rank takes what does not divide."""
        each = size // self.count
        return slice(self.rank * each, size if self.rank == self.count - 1 else (self.rank + 1) * each)

    def average(self, tensors: Iterable[Tensor]) -> None:
        """Replace each tensor by its average over the ranks, in one exchange."""
        if self.count == 1:
            return
        given = list(tensors)
        flat = torch.cat([tensor.reshape(-1).float() for tensor in given])
        dist.all_reduce(flat)
        parts = flat.div_(self.count).split([tensor.numel() for tensor in given])
        for tensor, part in zip(given, parts, strict=True):
            tensor.copy_(part.view_as(tensor))

    def wait(self) -> None:
        """Until every rank is here: what rank 0 wrote before can be read after."""
        if self.count > 1:
            dist.barrier()
