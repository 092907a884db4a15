"""The one place where the model's attention meets the KV storage.

transformers calls ``paged_attention`` in every layer (it is registered under ``NAME``) with the
queries, keys and values of all packed tokens. It stores the new keys and values and lets each
sequence read its own: the past as far as it lies in neighbouring blocks at a time, straight from
the storage, and the new tokens among themselves. Parts are joined by their log-sum-exp, as in
FlashAttention (Dao et al. 2022, section 3.1).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from fromage_server.engine.kv_cache import PagedCache

NAME = "fromage_paged"
Part = tuple[Tensor, Tensor]  # what was attended to (H, Q, D), and its log-sum-exp (H, Q)


@dataclass(frozen=True)
class Span:
    """One sequence's packed tokens, [start, stop): the positions from ``past`` on.

    ``runs`` are the [first, last) places in the storage where the positions before ``past`` lie.
    A single token is stored before it is read, so its own place is among its runs.
    """

    start: int
    stop: int
    past: int
    runs: tuple[tuple[int, int], ...]

    @property
    def count(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True)
class Layout:
    """A step: ``places`` (N,) in the storage for all packed tokens, and whose they are."""

    places: Tensor
    spans: tuple[Span, ...]
    # (span, window) -> mask, which all layers share.
    masks: dict[tuple[int, int], Tensor] = field(default_factory=dict)

    @classmethod
    def empty(cls) -> Layout:
        return cls(torch.empty(0, dtype=torch.long), ())


_current: ContextVar[PagedCache] = ContextVar("the storage of the step that runs")


class Paged:
    """Within it ``lm`` attends through ``cache``; outside as it was loaded."""

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
    """(1, H, N, D) queries, (1, K, N, D) new keys and values -> (1, N, H, D).

    A query attends to the ``sliding_window`` latest positions, its own included.
    """
    cache = _current.get()
    layer: Any = module.layer_idx
    keys, values, layout = cache.keys[layer], cache.values[layer], cache.layout
    keys.index_copy_(1, layout.places, key[0])
    values.index_copy_(1, layout.places, value[0])
    attend = _Attend(query.shape[-1] ** -0.5 if scaling is None else scaling, softcap)
    window = sliding_window or 0
    out = query.new_empty(query.shape[2], query.shape[1], query.shape[3])
    for index, span in enumerate(layout.spans):
        rows = slice(span.start, span.stop)
        q = query[:, :, rows]
        if span.count == 1:
            parts = [
                attend.grouped(q, keys[:, a:b], values[:, a:b]) for a, b in _last(span.runs, window)
            ]
        elif window and span.past + span.count > window:
            k = torch.cat([*(keys[:, a:b] for a, b in span.runs), key[0, :, rows]], dim=1)
            v = torch.cat([*(values[:, a:b] for a, b in span.runs), value[0, :, rows]], dim=1)
            parts = [attend.masked(q, k, v, _window_mask(layout, index, window))]
        else:
            parts = [attend.grouped(q, keys[:, a:b], values[:, a:b]) for a, b in span.runs]
            parts.append(attend.causal(q, key[0, :, rows], value[0, :, rows]))
        out[rows] = _joined(parts).transpose(0, 1)
    return out[None], None


AttentionInterface.register(NAME, paged_attention)


class _Attend:
    """Attention of (1, H, Q, D) queries over (K, T, D) keys and values; H is a multiple of K."""

    def __init__(self, scale: float, softcap: float | None) -> None:
        self._scale, self._softcap = scale, softcap

    def grouped(self, query: Tensor, keys: Tensor, values: Tensor) -> Part:
        """Every query sees all keys. Queries of one group stand together, so keys are read once."""
        heads, count = query.shape[1:3]
        rows = query.reshape(1, len(keys), -1, query.shape[-1])
        out, total = self._attend(rows, keys[None], values[None])
        return out[0].reshape(heads, count, -1), total[0].reshape(heads, count)

    def causal(self, query: Tensor, keys: Tensor, values: Tensor) -> Part:
        """Query i sees keys 0 to i."""
        k, v = (_repeated(states, query.shape[1])[None] for states in (keys, values))
        out, total = self._attend(query, k, v, causal=True)
        return out[0], total[0]

    def masked(self, query: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Part:
        k, v = (_repeated(states, query.shape[1])[None] for states in (keys, values))
        out, total = self._attend(query, k, v, mask=mask)
        return out[0], total[0]

    def _attend(
        self, query: Tensor, keys: Tensor, values: Tensor, *, causal: bool = False, mask: Any = None
    ) -> Part:
        if self._softcap is None and query.device.type == "cpu":
            found: Part = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
                query, keys, values, 0.0, causal, attn_mask=mask, scale=self._scale
            )
            return found
        scores = self._scale * (query.float() @ keys.transpose(-1, -2).float())
        if self._softcap is not None:
            scores = self._softcap * torch.tanh(scores / self._softcap)
        if causal:
            mask = query.new_full(scores.shape[-2:], -torch.inf, dtype=torch.float32).triu(1)
        if mask is not None:
            scores = scores + mask
        total = scores.logsumexp(-1)
        return ((scores - total[..., None]).exp() @ values.float()).to(query.dtype), total


def _repeated(states: Tensor, heads: int) -> Tensor:
    """(K, T, D) -> (H, T, D)."""
    groups = heads // len(states)
    return states if groups == 1 else states.repeat_interleave(groups, dim=0)


def _last(runs: Sequence[tuple[int, int]], window: int) -> Sequence[tuple[int, int]]:
    """The part of ``runs`` that holds the last ``window`` positions; all where it is 0."""
    if not window:
        return runs
    kept: list[tuple[int, int]] = []
    for first, last in reversed(runs):
        if window <= 0:
            break
        kept.append((max(first, last - window), last))
        window -= last - first
    return kept[::-1]


def _window_mask(layout: Layout, index: int, window: int) -> Tensor:
    """(Q, T) float: 0 where query i may see key j, else -inf; the last query is the last key."""
    if (index, window) not in layout.masks:
        span = layout.spans[index]
        device = layout.places.device
        at = torch.arange(span.past, span.past + span.count, device=device)[:, None]
        seen = torch.arange(span.past + span.count, device=device)[None]
        hidden = (seen > at) | (seen <= at - window)
        mask = torch.zeros(hidden.shape, device=device).masked_fill(hidden, -torch.inf)
        layout.masks[index, window] = mask
    return layout.masks[index, window]


def _joined(parts: Sequence[Part]) -> Tensor:
    """(H, Q, D): softmax over all parts' keys together."""
    if len(parts) == 1:
        return parts[0][0]
    totals = torch.stack([total for _, total in parts])  # (P, H, Q)
    shares = (totals - totals.logsumexp(0)).exp()[..., None]
    outs = torch.stack([out for out, _ in parts]).float()
    return (shares * outs).sum(0).to(parts[0][0].dtype)
