"""Which of a server's processes this one is, where several share a language model."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final

from fromage_server.errors import SettingsError
from fromage_server.settings import Settings

if TYPE_CHECKING:
    import torch

# Reading a large model takes some ranks longer than others.
_PATIENCE: Final = timedelta(minutes=30)
_HERE: Final = "here"
_TORCHRUN: Final = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True)
class Place:
    """Rank 0 leads. ``torchrun`` has started all ranks, or rank 0 starts the others; these find
    each other in the file ``store``."""

    rank: int
    world: int
    local_rank: int
    torchrun: bool = False
    store: Path | None = None

    @property
    def is_alone(self) -> bool:
        return self.world == 1


def place_of(settings: Settings, environ: Mapping[str, str]) -> Place:
    """Raises SettingsError where the settings and torchrun's variables contradict each other."""
    world = settings.tensor_parallel
    place = Place(0, world, 0)
    if all(name in environ for name in _TORCHRUN):
        rank, started, local_rank = (int(environ[name]) for name in _TORCHRUN[:3])
        if world not in (1, started):
            raise SettingsError(
                f"tensor_parallel = {world}: torchrun has started {started} processes (WORLD_SIZE)"
            )
        place = Place(rank, started, local_rank, torchrun=True)
    if not place.is_alone:
        _check(settings, place.world)
    return place


def _check(settings: Settings, world: int) -> None:
    together = f"with tensor_parallel {world}"
    if settings.device.startswith("cuda:"):
        raise SettingsError(f"device = {settings.device!r}: {together} it is auto, cuda or cpu")
    if settings.quantize != "none":
        raise SettingsError(f"quantize = {settings.quantize!r}: {together} it is none")


def device_of(name: str, place: Place) -> torch.device:
    """Raises DeviceUnavailable."""
    from fromage_weights.devices import choose_device

    device = choose_device(name)
    if place.is_alone or device.type == "cpu":
        return device
    if not place.torchrun:
        choose_device(f"cuda:{place.world - 1}")
    return choose_device(f"cuda:{place.local_rank}")


@contextmanager
def together(place: Place, device: torch.device, check: Callable[[], None]) -> Iterator[None]:
    """All ranks meet; ``check`` raises where one will not come."""
    import torch
    import torch.distributed as dist
    from torch._C._distributed_c10d import FileStore

    if device.type == "cuda":
        torch.cuda.set_device(device)
        os.environ["LOCAL_RANK"] = str(place.local_rank)  # where transformers looks
    else:
        torch.set_num_threads(max(1, torch.get_num_threads() // place.world))
    store = None
    if place.store is not None:
        store = FileStore(str(place.store), place.world)
        store.add(_HERE, 1)
        while store.add(_HERE, 0) < place.world:
            check()
            time.sleep(0.05)
    dist.init_process_group(
        # Small messages go from CPU to CPU, whatever the model runs on.
        "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo",
        store=store,
        rank=place.rank,
        world_size=place.world,
        timeout=_PATIENCE,
    )
    try:
        yield
    finally:
        dist.destroy_process_group()
