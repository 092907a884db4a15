"""Where a stage trains: on which device, in which numbers, and who makes its batches."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from fromage_weights.cpu import training_dtype
from fromage_weights.demo.replayed import Replayed
from fromage_weights.demo.shapes import compiled
from fromage_weights.devices import choose_dtype

P = ParamSpec("P")
T = TypeVar("T")
_MOST_WORKERS = 15


@dataclass(frozen=True)
class Hardware:
    """`dtype` is what matrix products are done in. `workers`: processes that make batches while the
    device computes; with none they are made in between, as suits a CPU that does both. `replays`:
    the steps of the language model and of the tower have few shapes, filled up where they have to
    be, and a GPU replays them."""

    device: torch.device
    dtype: torch.dtype
    workers: int = 0
    replays: bool = False

    @classmethod
    def of(cls, device: torch.device) -> Hardware:
        """What suits the device. On a CPU call ``avoid_hidden_amx`` before."""
        if device.type == "cpu":
            return cls(device, training_dtype())
        spare = (os.cpu_count() or 1) - 1
        workers = min(spare, _MOST_WORKERS)
        return cls(device, choose_dtype("auto", device), workers, replays=True)

    @classmethod
    def cpu(cls) -> Hardware:
        return cls.of(torch.device("cpu"))

    def autocast(self) -> torch.autocast:
        """Products in `dtype`, for what is computed within."""
        half = self.dtype != torch.float32
        return torch.autocast(self.device.type, torch.bfloat16, enabled=half)

    def compiled(self, function: Callable[P, T]) -> Callable[P, T]:
        """Compiled for a CPU. A GPU takes a few minutes for all of it, most of which compiling
        would cost again."""
        return compiled(function) if self.device.type == "cpu" else function

    def replayed(self, step: Callable[..., Tensor]) -> Replayed:
        return Replayed(step, self.device, record=self.replays and self.device.type == "cuda")

    def made(self, make: Callable[[int], T], start: int, stop: int) -> Iterator[T]:
        """`make(start)`, …, `make(stop - 1)`, in order, whoever makes them: `make` must depend on
        nothing but the number."""
        if not self.workers:
            return map(make, range(start, stop))
        numbers = range(start, stop)
        loader = DataLoader(
            _Numbered(make),
            batch_size=None,
            sampler=numbers,
            num_workers=self.workers,
            collate_fn=_as_it_is,
            multiprocessing_context="fork",  # nothing of `make` is to be pickled
            prefetch_factor=4,
        )
        return iter(loader)


class _Numbered(Dataset[T]):
    def __init__(self, make: Callable[[int], T]) -> None:
        self._make = make

    def __getitem__(self, number: int) -> T:
        return self._make(number)


def _as_it_is(batch: T) -> T:
    return batch
