"""`fromage serve --plan`: what would go where, before anything is loaded."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

import torch
from torch.cuda import device_count

from fromage_index.coded import held_bytes
from fromage_index.manifest import read_manifest
from fromage_server.amounts import count, size
from fromage_server.engine.attention import BLOCK_SIZE
from fromage_server.engine.kv_cache import KVShape
from fromage_server.engine.memory import SPARE_SHARE, STORAGE_SHARE, free_bytes, storage_blocks
from fromage_server.engine.packing import second_layout_bytes
from fromage_server.settings import Settings
from fromage_weights.bundle import Bundle
from fromage_weights.devices import choose_device, choose_dtype
from fromage_weights.errors import ParallelUnavailable, UnsupportedModel
from fromage_weights.language import context_length
from fromage_weights.loading import bundle_directory
from fromage_weights.quantization import language_model_bytes, largest_product
from fromage_weights.sharding import Division
from fromage_weights.sizes import (
    language_model_outline,
    language_model_parameters,
    tower_parameters,
)

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PreTrainedModel

    from fromage_weights.quantization import Quantization

_FLOAT32: Final = 4
# What a process takes beyond its parts: programs, kernels, activations of a step. On a CPU as
# measured with the demo under load (1.1 GiB); on CUDA an assumption.
RUNNING: Final = {"cpu": 5 << 28, "cuda": 1 << 30}


@dataclass(frozen=True)
class Item:
    """One part and what it takes, in bytes."""

    name: str
    what: str
    bytes: int


@dataclass(frozen=True)
class MemoryPlan:
    device: str
    free: int
    items: tuple[Item, ...]
    streams: float
    """Whole contexts that the keys and values hold."""
    least: int
    """Free bytes with which the keys and values hold one."""
    remedies: tuple[str, ...] = field(default=())
    alternatives: tuple[tuple[str, int], ...] = field(default=())
    """``least`` with other numbers for the language model."""

    def bytes_of(self, name: str) -> int:
        return next(item.bytes for item in self.items if item.name == name)

    @property
    def total(self) -> int:
        return sum(item.bytes for item in self.items)

    @property
    def fits(self) -> bool:
        return self.total <= self.free

    def text(self) -> str:
        rows = [(item.name, item.what, size(item.bytes)) for item in self.items]
        rows.append(("together", "", size(self.total)))
        rows.append((f"free on {self.device}", "", size(self.free)))
        widths = [max(len(row[i]) for row in rows) for i in range(3)]
        lines = [
            f"{name:{widths[0]}}  {what:{widths[1]}}  {amount:>{widths[2]}}"
            for name, what, amount in rows
        ]
        lines.append("")
        lines.append(
            "It fits."
            if self.fits
            else f"It does not fit: {size(self.total - self.free)} too much."
        )
        lines += [f"  {remedy}" for remedy in self.remedies]
        lines += ["", "Free memory that serves one whole context at a time:"]
        lines += [f"  {name:20}{size(least):>10}" for name, least in self.alternatives]
        return "\n".join(lines)


def make_plan(settings: Settings) -> MemoryPlan:
    """Raises the typed errors of the packages where a model's configuration cannot be read."""
    device = choose_device(settings.device)
    dtype = choose_dtype(settings.dtype, device)
    parts = _Parts.of(settings, device)
    plan = parts.plan(dtype, settings.quantize)
    others = parts.alternatives(dtype)
    return replace(
        plan,
        remedies=_remedies(plan, parts, dtype, others),
        alternatives=tuple((_numbers(*chosen), other.least) for chosen, other in others.items()),
    )


Numbers = tuple[torch.dtype, "Quantization"]


@dataclass(frozen=True)
class _Parts:
    """What is known before it is decided in which numbers the language model is held."""

    settings: Settings
    device: torch.device
    free: int
    lm: PreTrainedModel
    others: tuple[Item, ...]
    """Vision encoder, mappers and collections."""
    division: Division | None = None
    """Planned is then the first device, which holds all that is not divided."""

    @classmethod
    def of(cls, settings: Settings, device: torch.device) -> _Parts:
        bundle = Bundle.load(bundle_directory(settings.bundle))
        lm = language_model_outline(bundle.frozen_source(bundle.config.lm))
        tower = tower_parameters(bundle.frozen_source(bundle.config.vision))
        mappers = sum(p.numel() for p in bundle.mappers.parameters()) * _FLOAT32
        others = (
            Item("vision encoder", f"{count(tower)} parameters, float32", tower * _FLOAT32),
            Item("mappers", "float32", mappers),
            *(_collection(n, p, device.type) for n, p in settings.collections.items()),
        )
        world = settings.tensor_parallel
        division = Division.of(lm, world) if world > 1 else None
        return cls(settings, device, free_bytes(device), lm, others, division)

    @property
    def context(self) -> int:
        return min(self.settings.max_context or 1 << 62, context_length(self.lm.config))

    def divided(self, world: int) -> _Parts:
        """Raises ParallelUnavailable."""
        return replace(self, division=Division.of(self.lm, world))

    def shape(self, dtype: torch.dtype) -> KVShape:
        whole = KVShape.of(self.lm, dtype, self.device.type)
        return whole if self.division is None else replace(whole, heads=self.division.kv_heads)

    def kv_blocks(self, dtype: torch.dtype, left: int) -> int:
        settings = self.settings
        return storage_blocks(
            self.shape(dtype),
            self.device.type,
            left,
            settings.max_batch,
            self.context,
            settings.kv_cache_bytes,
        )

    def whole_context(self, dtype: torch.dtype) -> int:
        """Bytes of its keys and values."""
        blocks = -(-self.context // BLOCK_SIZE)
        return blocks * BLOCK_SIZE * self.shape(dtype).position_bytes

    def plan(self, dtype: torch.dtype, quantize: Quantization) -> MemoryPlan:
        """Without remedies."""
        parameters, device = count(language_model_parameters(self.lm)), str(self.device)
        held = language_model_bytes(self.lm, dtype, quantize)
        if self.division is not None:
            share = self.division.parameters(self.lm)
            parameters, held = f"{count(share)} of {parameters}", share * dtype.itemsize
            device += f", each of {self.division.world}"
        what = f"{type(self.lm).__name__}, {parameters} parameters, {_numbers(dtype, quantize)}"
        model = Item("language model", what, held)
        scratch = largest_product(self.lm, dtype, quantize)
        running = Item(
            "running", "activations, kernels, programs", RUNNING[self.device.type] + scratch
        )
        models = (model, *self._second_layout(dtype, quantize, held))
        fixed = sum(item.bytes for item in (*models, *self.others, running))
        position = self.shape(dtype).position_bytes
        block = BLOCK_SIZE * position
        usable = STORAGE_SHARE[self.device.type]
        blocks = self.kv_blocks(dtype, max(int(block / usable) + 1, self.free - fixed))
        streams = blocks * BLOCK_SIZE / self.context
        kv = Item(
            "keys and values",
            f"{blocks * BLOCK_SIZE:,} tokens of {size(position)}: "
            f"{streams:.1f} contexts of {self.context:,}",
            (blocks + 1) * block,  # and one of the engine's own
        )
        # A second layout is given up before anything else.
        least = fixed - sum(item.bytes for item in models[1:])
        least += int(self.whole_context(dtype) / usable)
        items = (*models, *self.others, kv, running)
        return MemoryPlan(device, self.free, items, streams, least)

    def _second_layout(
        self, dtype: torch.dtype, quantize: Quantization, held: int
    ) -> tuple[Item, ...]:
        spare = int(SPARE_SHARE * (self.free - held))
        if self.device.type != "cpu" or quantize != "none" or self.settings.deterministic:
            return ()
        needed = second_layout_bytes(self.lm, dtype, spare)
        what = "weights in a second layout, the head in int8, if few streams are faster so"
        return (Item("for few rows", what, needed),) if needed else ()

    def alternatives(self, dtype: torch.dtype) -> dict[Numbers, MemoryPlan]:
        """The largest first; what the model cannot be held in is left out."""
        full: tuple[Numbers, ...] = ((torch.float32, "none"), (torch.bfloat16, "none"))
        small: tuple[Numbers, ...] = ((dtype, "int8"), (dtype, "int4"), (torch.bfloat16, "int4"))
        found: dict[Numbers, MemoryPlan] = {}
        for chosen in full if self.division else (*full, *small):
            with suppress(UnsupportedModel):
                found[chosen] = self.plan(*chosen)
        return found


def _collection(name: str, path: Path, device: str) -> Item:
    manifest = read_manifest(path)
    what = f"{manifest.rows:,} images, {manifest.dim} numbers each"
    held = sum(held_bytes(segment.rows, manifest.dim, device) for segment in manifest.segments)
    return Item(f"collection {name}", what, held)


def _remedies(
    plan: MemoryPlan, parts: _Parts, dtype: torch.dtype, others: dict[Numbers, MemoryPlan]
) -> tuple[str, ...]:
    """What would make it fit and hold a whole context; the mildest first."""
    if plan.fits and plan.streams >= 1:
        return ()
    found: list[str] = []
    kv = plan.bytes_of("keys and values")
    whole = parts.whole_context(dtype)
    room = kv - max(0, plan.total - plan.free)
    if plan.streams < 1:
        found.append(
            f"a whole context needs {size(whole)} for keys and values: a lower --max-context "
            "lets what fits be promised"
        )
    elif room >= whole:
        found.append(f"--kv-cache-bytes {room >> 20}MiB makes it fit")
    enough = bool(found) and plan.fits
    for (numbers, quantize), other in others.items():
        flags = _flags(dtype, parts.settings.quantize, numbers, quantize)
        saved = plan.bytes_of("language model") - other.bytes_of("language model")
        if saved <= 0:
            continue
        then, now = (parts.shape(one).position_bytes for one in (numbers, dtype))
        saved += kv - kv * then // now
        fits = other.fits and other.streams >= 1
        verdict = "makes it fit" if fits else "is not enough alone"
        found.append(f"{flags} saves {size(saved)} and {verdict}")
        enough = enough or fits
    if divided := _enough_devices(parts, dtype):
        found.append(f"--tensor-parallel {divided} makes it fit, with as much free on each GPU")
    if not (enough or divided) and room < whole:
        found.append("no option makes it fit: a smaller model, or a device with more memory")
    return tuple(found)


def _enough_devices(parts: _Parts, dtype: torch.dtype) -> int:
    """How many of this machine's GPUs hold a divided model; 0 where all do not."""
    if parts.division is not None or parts.settings.quantize != "none":
        return 0
    for world in range(2, device_count() + 1):
        with suppress(ParallelUnavailable):
            plan = parts.divided(world).plan(dtype, "none")
            if plan.fits and plan.streams >= 1:
                return world
    return 0


def _flags(dtype: torch.dtype, now: Quantization, numbers: torch.dtype, then: Quantization) -> str:
    """What turns one choice into another."""
    changes = [f"--quantize {then}"] if then != now else []
    if numbers != dtype:
        changes.append(f"--dtype {_name(numbers)}")
    return " ".join(changes)


def _numbers(dtype: torch.dtype, quantize: Quantization) -> str:
    return _name(dtype) if quantize == "none" else f"{quantize} and {_name(dtype)}"


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
