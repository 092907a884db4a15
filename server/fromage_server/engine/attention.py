"""The one place where the model's attention meets the KV storage.

transformers calls ``paged_attention`` in every layer (it is registered under ``NAME``) with the
queries, keys and values of all packed tokens. A ``Backend`` stores the new keys and values and lets
each sequence read its own: ``attention_runs`` on a CPU, ``attention_pages`` on a GPU.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn
from transformers import AttentionInterface

from fromage_server.engine.blocks import runs_of
from fromage_server.engine.landing import upload
from fromage_server.engine.opaque import opaque

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from fromage_server.engine.kv_cache import KVShape, PagedCache

NAME = "fromage_paged"
BLOCK_SIZE = 16


@dataclass(frozen=True)
class Span:
    """One sequence's packed tokens, [start, stop), which are its positions from ``past`` on;
    ``blocks`` hold its keys and values, these tokens' included."""

    start: int
    stop: int
    past: int
    blocks: tuple[int, ...]

    @property
    def count(self) -> int:
        return self.stop - self.start

    @property
    def length(self) -> int:
        return self.past + self.count


def places_of(blocks: Sequence[int], length: int) -> list[tuple[int, int]]:
    """Where the first ``length`` positions of ``blocks`` lie: [first, last) of neighbours."""
    found: list[tuple[int, int]] = []
    for first, count in runs_of(blocks):
        size = min(count * BLOCK_SIZE, length)
        if size <= 0:
            break
        found.append((first * BLOCK_SIZE, first * BLOCK_SIZE + size))
        length -= size
    return found


@dataclass(frozen=True, eq=False)
class Layout:
    """Whose the packed tokens of a step are, and ``places`` (N,), where each is stored: block *
    size + offset. ``scratch``: what a backend makes of it once a step, for all layers."""

    spans: tuple[Span, ...]
    device: torch.device
    places: Tensor
    scratch: dict[Any, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, spans: Sequence[Span], device: torch.device) -> Layout:
        places = [
            span.blocks[at // BLOCK_SIZE] * BLOCK_SIZE + at % BLOCK_SIZE
            for span in spans
            for at in range(span.past, span.length)
        ]
        return cls(tuple(spans), device, upload(places, torch.long, device))


@dataclass(frozen=True)
class Scores:
    """How queries and keys are compared: ``scale`` times their product, through
    ``softcap * tanh(score / softcap)`` where that isn't 0, over the ``window`` latest positions,
    the query's own included, where that isn't 0."""

    scale: float
    window: int
    softcap: float


class Backend(Protocol):
    """Keys and values of one layer are a pair of tensors of the backend's own making."""

    def allocate(self, shape: KVShape, blocks: int, device: torch.device) -> Tensor:
        """(layers, 2, …), zeros."""

    def store(self, layout: Layout, stored: Tensor, key: Tensor, value: Tensor) -> None:
        """(K, N, D) ``key`` and ``value`` into the layer's ``stored``."""

    def attend(
        self,
        layout: Layout,
        stored: Tensor,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        scores: Scores,
    ) -> Tensor:
        """Store (K, N, D) ``key`` and ``value`` in the layer's ``stored``; let (H, N, D)
        ``query`` attend: (N, H, D). H is a multiple of K."""


class BeyondKeys(Exception):
    """A layer's keys and values have been stored, and no more of it is wanted."""


_current: ContextVar[PagedCache] = ContextVar("the storage of the step that runs")


class Paged:
    """Within a ``step`` ``lm`` attends through ``cache``; outside as it was loaded."""

    def __init__(self, lm: PreTrainedModel, cache: PagedCache) -> None:
        self._cache = cache
        # All that the model's modules look into; mostly one object.
        found = {id(m.config): m.config for m in lm.modules() if hasattr(m, "config")}
        self._configs: list[Any] = list(found.values())
        self._before = [config._attn_implementation for config in self._configs]

    @contextmanager
    def step(self, layout: Layout) -> Iterator[PagedCache]:
        self._cache.layout = layout
        token = _current.set(self._cache)
        for config in self._configs:
            config._attn_implementation_internal = NAME
        try:
            yield self._cache
        finally:
            for config, name in zip(self._configs, self._before, strict=True):
                config._attn_implementation_internal = name
            _current.reset(token)


def paged_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **kwargs: object,
) -> tuple[Tensor, None]:
    """(1, H, N, D) queries, (1, K, N, D) new keys and values -> (1, N, H, D)."""
    layer: Any = module.layer_idx
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    return attend(query, key, value, layer, scale, sliding_window or 0, softcap or 0.0), None


@opaque(
    "attend(Tensor query, Tensor key, Tensor value, int layer, float scale, int window, "
    "float softcap) -> Tensor"
)
def attend(
    query: Tensor, key: Tensor, value: Tensor, layer: int, scale: float, window: int, softcap: float
) -> Tensor:
    """Through the backend, in the step that runs. Raises BeyondKeys within ``storing``."""
    cache = _current.get()
    stored, backend = cache.layers_stored[layer], cache.backend
    if cache.only_stores:
        backend.store(cache.layout, stored, key[0], value[0])
        raise BeyondKeys
    scores = Scores(scale, window, softcap)
    return backend.attend(cache.layout, stored, query[0], key[0], value[0], scores)[None]


AttentionInterface.register(NAME, paged_attention)
