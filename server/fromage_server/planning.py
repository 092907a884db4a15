"""`fromage serve --plan`: what would go where, before anything is loaded."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

import torch

from fromage_index.manifest import read_manifest
from fromage_server.engine.attention import BLOCK_SIZE
from fromage_server.engine.kv_cache import KVShape
from fromage_server.engine.memory import free_bytes, storage_blocks
from fromage_server.settings import Settings
from fromage_weights.bundle import Bundle
from fromage_weights.devices import choose_device, choose_dtype
from fromage_weights.language import context_length
from fromage_weights.loading import bundle_directory
from fromage_weights.sizes import (
    language_model_outline,
    language_model_parameters,
    tower_parameters,
)

if TYPE_CHECKING:
    from pathlib import Path

_FLOAT32: Final = 4
# Programs, kernels, activations of a step: seen with OPT on CUDA, and more than a CPU takes.
_RUNNING: Final = 1 << 30


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
    remedies: tuple[str, ...] = field(default=())

    @property
    def total(self) -> int:
        return sum(item.bytes for item in self.items)

    @property
    def fits(self) -> bool:
        return self.total <= self.free

    def text(self) -> str:
        rows = [(item.name, item.what, _size(item.bytes)) for item in self.items]
        rows.append(("together", "", _size(self.total)))
        rows.append((f"free on {self.device}", "", _size(self.free)))
        widths = [max(len(row[i]) for row in rows) for i in range(3)]
        lines = [
            f"{name:{widths[0]}}  {what:{widths[1]}}  {size:>{widths[2]}}"
            for name, what, size in rows
        ]
        lines.append("")
        lines.append(
            "It fits."
            if self.fits
            else f"It does not fit: {_size(self.total - self.free)} too much."
        )
        lines += [f"  {remedy}" for remedy in self.remedies]
        return "\n".join(lines)


def make_plan(settings: Settings) -> MemoryPlan:
    """Raises the typed errors of the packages where a model's configuration cannot be read."""
    device = choose_device(settings.device)
    dtype = choose_dtype(settings.dtype, device)
    bundle = Bundle.load(bundle_directory(settings.bundle))
    config = bundle.config
    lm = language_model_outline(bundle.frozen_source(config.lm))
    shape = KVShape.of(lm, dtype)
    parameters, tower = (
        language_model_parameters(lm),
        tower_parameters(bundle.frozen_source(config.vision)),
    )
    context = min(settings.max_context or 1 << 62, context_length(lm.config))
    weights = parameters * dtype.itemsize
    mappers = sum(p.numel() for p in bundle.mappers.parameters()) * _FLOAT32
    fixed = weights + tower * _FLOAT32 + mappers + _RUNNING
    free = free_bytes(device)
    block = BLOCK_SIZE * shape.position_bytes
    left = max(block, free - fixed)
    blocks = storage_blocks(
        shape, device.type, left, settings.max_batch, context, settings.kv_cache_bytes
    )
    name = str(dtype).removeprefix("torch.")
    items = [
        Item(
            "language model",
            f"{type(lm).__name__}, {_count(parameters)} parameters, {name}",
            weights,
        ),
        Item("vision encoder", f"{_count(tower)} parameters, float32", tower * _FLOAT32),
        Item("mappers", "float32", mappers),
        Item(
            "keys and values",
            f"{blocks * BLOCK_SIZE:,} tokens of {_size(shape.position_bytes)}: "
            f"{blocks * BLOCK_SIZE / context:.1f} contexts of {context:,}",
            blocks * block,
        ),
        *(_collection(name, path) for name, path in settings.collections.items()),
        Item("running", "activations, kernels, programs", _RUNNING),
    ]
    plan = MemoryPlan(str(device), free, tuple(items), blocks * BLOCK_SIZE / context)
    whole = block * -(-context // BLOCK_SIZE)
    return replace(plan, remedies=_remedies(plan, dtype, parameters, blocks * block, whole))


def _collection(name: str, path: Path) -> Item:
    manifest = read_manifest(path)
    what = f"{manifest.rows:,} images, {manifest.dim} numbers each"
    return Item(f"collection {name}", what, manifest.rows * manifest.dim * _FLOAT32)


def _remedies(
    plan: MemoryPlan, dtype: torch.dtype, parameters: int, kv: int, whole: int
) -> tuple[str, ...]:
    """What would make it fit, or hold a whole context; the mildest first."""
    found: list[str] = []
    excess = plan.total - plan.free
    if plan.streams < 1:
        found.append(
            f"a whole context needs {_size(whole)} for keys and values: a lower --max-context "
            "lets what fits be promised"
        )
    if excess <= 0:
        return tuple(found)
    if kv - excess >= whole:
        found.append(f"--kv-cache-bytes {(kv - excess) >> 20}MiB makes it fit")
    if dtype == torch.float32:
        saved = 2 * parameters + kv // 2
        verdict = "makes it fit" if saved >= excess else "is not enough alone"
        found.append(f"--dtype bfloat16 saves {_size(saved)} and {verdict}")
    return tuple(found) or (
        "no option makes it fit: a smaller model, or a device with more memory",
    )


def _size(value: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} GiB"


def _count(parameters: int) -> str:
    return f"{parameters / 1e9:.1f} B" if parameters >= 1e9 else f"{parameters / 1e6:.1f} M"
