"""Several processes that train one network together: each learns from its share of a batch, gradients are averaged.

Started by `torchrun` or `accelerate launch`, which tell each process its rank. The first one leads: it alone writes files and
judges. Gradients are averaged by hand rather than by DistributedDataParallel, since a batch rarely asks every head.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import nn

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Workers:
    """This process and how many there are."""

    rank: int = 0
    count: int = 1

    @classmethod
    def of_environment(cls) -> Workers:
        """Joins the others where there are any: over NCCL on GPUs, over Gloo on CPUs."""
        count = int(os.environ.get("WORLD_SIZE", "1"))
        if count == 1:
            return cls()
        if not torch.distributed.is_initialized():
            torch.distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
        return cls(rank=torch.distributed.get_rank(), count=count)

    @property
    def leads(self) -> bool:
        return self.rank == 0

    def device(self) -> torch.device:
        """A GPU of its own for each process of a machine, or the CPU."""
        if not torch.cuda.is_available():
            return torch.device("cpu")
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))

    def share(self, items: Sequence[T]) -> Sequence[T]:
        """Every n-th item; texts of like length lie together, so that shares cost about the same."""
        return items[self.rank :: self.count]

    def average_gradients(self, network: nn.Module) -> None:
        """A parameter that this process had no gradient for counts as zero, if it learns at all."""
        if self.count == 1:
            return
        for parameter in network.parameters():
            if parameter.requires_grad:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
                torch.distributed.all_reduce(parameter.grad)
                parameter.grad /= self.count

    def agree(self, value: bool, device: torch.device) -> bool:
        """What the leading process says; the others wait for it."""
        if self.count == 1:
            return value
        said = torch.tensor([int(value)], device=device)
        torch.distributed.broadcast(said, src=0)
        return bool(said.item())

    def seed_step(self, seed: int, step: int) -> None:
        """Processes draw different dropout masks, and the same ones again when a run is resumed."""
        if self.count > 1:
            torch.manual_seed((seed * 1_000_003 + step) * 1_009 + self.rank)
