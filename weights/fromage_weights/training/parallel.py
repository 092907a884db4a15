"""What several training processes share: sums, gathered embeddings, summed gradients."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

import torch
from torch import Tensor, nn


class Ranks(Protocol):
    """A group of processes that train on parts of the same batch."""

    rank: int
    size: int

    def total(self, values: Tensor) -> Tensor:
        """``values`` summed over the ranks, without gradient."""
        ...

    def gather(self, rows: Tensor) -> Tensor:
        """(B, E) of each rank -> (size * B, E) in rank order; only this rank's rows carry a
        gradient, so gradients summed over the ranks are complete."""
        ...

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None: ...


class Alone:
    """One process."""

    rank, size = 0, 1

    def total(self, values: Tensor) -> Tensor:
        return values

    def gather(self, rows: Tensor) -> Tensor:
        return rows

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        return


class ProcessGroup:
    """The default group of torch.distributed (NCCL on GPUs, gloo on the CPU)."""

    def __init__(self, device: torch.device) -> None:
        from torch import distributed

        self._distributed, self._device = distributed, device
        self.rank, self.size = distributed.get_rank(), distributed.get_world_size()

    def total(self, values: Tensor) -> Tensor:
        summed = values.to(self._device, copy=True)
        self._distributed.all_reduce(summed)
        return summed.to(values.device)

    def gather(self, rows: Tensor) -> Tensor:
        sizes = [torch.zeros(1, dtype=torch.long, device=self._device) for _ in range(self.size)]
        self._distributed.all_gather(sizes, torch.tensor([len(rows)], device=self._device))
        parts = [rows.new_empty(int(size), rows.shape[1]) for size in sizes]
        if len({len(part) for part in parts}) > 1:
            raise ValueError(f"ranks have batches of {[len(p) for p in parts]}, expected one size")
        self._distributed.all_gather(parts, rows.detach().contiguous())
        parts[self.rank] = rows
        return torch.cat(parts)

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            self._distributed.all_reduce(parameter.grad)
