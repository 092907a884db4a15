"""Attention on a CPU: each sequence reads its past in place, neighbouring blocks at a time.

Every layer's storage is (2, heads, positions, head_dim), so what neighbouring blocks hold is one
matrix per head. Where they could be built, two kernels read it: ``single_queries`` for all
sequences with one new token, in one call, and ``many_queries`` for those with more. What they don't
take goes through torch: new tokens attend among themselves and to each run of their past; the parts
are joined by their log-sum-exp, as in FlashAttention (Dao et al. 2022, section 3.1).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fromage_server.engine.attention import BLOCK_SIZE, Layout, Scores, Span, places_of
from fromage_server.engine.kv_cache import KVShape
from fromage_server.engine.many_queries import PromptKernel, takes_prompts
from fromage_server.engine.single_queries import Kernel, Queries

Part = tuple[Tensor, Tensor]  # what was attended to (H, Q, D), and its log-sum-exp (H, Q)
_MASKED = 1 << 22  # numbers of a mask that costs more than it saves
Runs = Sequence[tuple[int, int]]  # [first, last) places in the storage


class RunsBackend:
    """``whole``: a sequence's past is copied together first, so that what comes out does not depend
    on where its blocks lie. ``kernel``, of single queries, and ``prompts`` None: in plain torch."""

    def __init__(
        self,
        *,
        whole: bool = False,
        kernel: Kernel | None = None,
        prompts: PromptKernel | None = None,
    ) -> None:
        self._whole, self._kernel, self._prompts = whole, kernel, prompts

    def allocate(self, shape: KVShape, blocks: int, device: torch.device) -> Tensor:
        size = (shape.layers, 2, shape.heads, blocks * BLOCK_SIZE, shape.head_dim)
        # The system gives zeros out page by page, when they are written to.
        return torch.zeros(size, dtype=shape.dtype, device=device)

    def store(self, layout: Layout, stored: Tensor, key: Tensor, value: Tensor) -> None:
        self._store(layout, stored, key, value, with_singles=True)

    def _store(
        self, layout: Layout, stored: Tensor, key: Tensor, value: Tensor, *, with_singles: bool
    ) -> None:
        """Neighbouring places at a time: one by one, as ``index_copy_`` does it, takes longer."""
        pieces, tokens, places = _written(layout)
        for states, kept in zip((key, value), stored.unbind(0), strict=True):
            for token, place, count in pieces:
                kept[:, place : place + count].copy_(states[:, token : token + count])
            if with_singles and len(tokens):
                kept.index_copy_(1, places, states[:, tokens].to(stored.dtype))

    def attend(
        self,
        layout: Layout,
        stored: Tensor,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        scores: Scores,
    ) -> Tensor:
        count = len(layout.places)  # what is behind them is padding
        out = query.new_empty(query.shape[1], query.shape[0], query.shape[2])
        out[count:] = 0.0
        spans = list(zip(layout.spans, _runs(layout), strict=True))
        apart = self._kernel is not None and self._kernel.takes(stored, query, key, value)
        if self._kernel is not None and apart:
            singles = _singles(layout, scores.window)
            self._kernel(singles, stored, query, key, value, out, scores.scale, scores.softcap)
            spans = [(span, runs) for span, runs in spans if span.count > 1]
            if not spans:
                return out
        keys, values = stored.unbind(0)
        query, key, value = (states[:, :count].to(stored.dtype) for states in (query, key, value))
        self._store(layout, stored, key, value, with_singles=not apart)
        if self._prompts is not None and takes_prompts(stored, query, scores.softcap):
            self._prompts.attend(layout, stored, query, out, scores, whole=self._whole)
            spans = [(span, runs) for span, runs in spans if span.count == 1]
        attend = _Attend(scores)
        for span, runs in spans:
            rows = slice(span.start, span.stop)
            q = query[None, :, rows]
            if span.count == 1:
                seen = _last(runs, scores.window)
                pairs = [(keys[:, a:b], values[:, a:b]) for a, b in seen]
                parts = [attend.grouped(q, k, v) for k, v in self._gathered(pairs)]
            elif self._whole or (scores.window and span.length > scores.window):
                pairs = [(keys[:, a:b], values[:, a:b]) for a, b in runs]
                k, v = _together([*pairs, (key[:, rows], value[:, rows])])
                window = scores.window or span.length
                parts = [attend.all(q, k, v, mask=_window_mask(layout, span, window))]
            elif len(query) == len(keys) and (run := _one_run(layout, span)) is not None:
                # What is new has been stored behind the past: one call instead of two and a sum.
                k, v = (states[:, run[0] : run[1]] for states in (keys, values))
                parts = [attend.all(q, k, v, mask=_window_mask(layout, span, span.length))]
            else:
                parts = [attend.grouped(q, keys[:, a:b], values[:, a:b]) for a, b in runs]
                parts.append(attend.all(q, key[:, rows], value[:, rows], causal=True))
            out[rows] = _joined(parts).transpose(0, 1)
        return out

    def _gathered(self, pairs: list[tuple[Tensor, Tensor]]) -> list[tuple[Tensor, Tensor]]:
        return [_together(pairs)] if self._whole else pairs


def _together(pairs: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    keys, values = zip(*pairs, strict=True)
    return torch.cat(keys, dim=1), torch.cat(values, dim=1)


def _runs(layout: Layout) -> list[Runs]:
    """What each span reads from the storage: a single token its own place, too."""
    if "runs" not in layout.scratch:
        layout.scratch["runs"] = [
            places_of(span.blocks, span.length if span.count == 1 else span.past)
            for span in layout.spans
        ]
    found: list[Runs] = layout.scratch["runs"]
    return found


def _written(layout: Layout) -> tuple[list[tuple[int, int, int]], Tensor, Tensor]:
    """Where new keys and values go: (first token, first place, count) of those that are neighbours,
    and tokens and places of sequences that have a single one."""
    if "written" not in layout.scratch:
        pieces: list[tuple[int, int, int]] = []
        singles: list[int] = []
        for span in layout.spans:
            if span.count == 1:
                singles.append(span.start)
                continue
            at = 0  # position in the sequence
            for first, last in places_of(span.blocks, span.length):
                new = max(span.past - at, 0)
                if first + new < last:
                    token = span.start + at + new - span.past
                    pieces.append((token, first + new, last - first - new))
                at += last - first
        tokens = torch.tensor(singles, dtype=torch.long)
        layout.scratch["written"] = pieces, tokens, layout.places[tokens]
    found: tuple[list[tuple[int, int, int]], Tensor, Tensor] = layout.scratch["written"]
    return found


def _one_run(layout: Layout, span: Span) -> tuple[int, int] | None:
    """Where a sequence lies with its new tokens, if all in one place and behind a past; not where
    its mask would be large."""
    wanted = (span.start, "one run")
    if wanted not in layout.scratch:
        masked = span.count * span.length if span.past else _MASKED
        runs = places_of(span.blocks, span.length) if masked < _MASKED else []
        layout.scratch[wanted] = runs[0] if len(runs) == 1 else None
    found: tuple[int, int] | None = layout.scratch[wanted]
    return found


def _singles(layout: Layout, window: int) -> Queries:
    """Sequences with one new token, for the kernel."""
    name = ("singles", window)
    if name not in layout.scratch:
        spans = zip(layout.spans, _runs(layout), strict=True)
        found = [(span.start, _last(runs, window)) for span, runs in spans if span.count == 1]
        layout.scratch[name] = Queries(
            tokens=[token for token, _ in found],
            places=[runs[-1][1] - 1 for _, runs in found],
            seen=[runs for _, runs in found],
        )
    queries: Queries = layout.scratch[name]
    return queries


class _Attend:
    """Attention of (1, H, Q, D) queries over (K, T, D) keys and values; H is a multiple of K."""

    def __init__(self, scores: Scores) -> None:
        self._scale, self._softcap = scores.scale, scores.softcap

    def grouped(self, query: Tensor, keys: Tensor, values: Tensor) -> Part:
        """Every query sees all keys. Queries of one group stand together, so keys are read once."""
        heads, count = query.shape[1:3]
        rows = query.reshape(1, len(keys), -1, query.shape[-1])
        out, total = self._attend(rows, keys[None], values[None])
        return out[0].reshape(heads, count, -1), total[0].reshape(heads, count)

    def all(
        self,
        query: Tensor,
        keys: Tensor,
        values: Tensor,
        *,
        causal: bool = False,
        mask: Tensor | None = None,
    ) -> Part:
        """``causal``: query i sees keys 0 to i. ``mask`` (Q, T) is added to the scores."""
        k, v = (_repeated(states, query.shape[1])[None] for states in (keys, values))
        out, total = self._attend(query, k, v, causal=causal, mask=mask)
        return out[0], total[0]

    def _attend(
        self, query: Tensor, keys: Tensor, values: Tensor, *, causal: bool = False, mask: Any = None
    ) -> Part:
        if not self._softcap:
            found: Part = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
                query, keys, values, 0.0, causal, attn_mask=mask, scale=self._scale
            )
            return found
        scores = self._scale * (query.float() @ keys.transpose(-1, -2).float())
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


def _last(runs: Runs, window: int) -> Runs:
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


def _window_mask(layout: Layout, span: Span, window: int) -> Tensor:
    """(Q, T) float: 0 where query i may see key j, else -inf; the last query is the last key."""
    wanted = (span.start, window)
    if wanted not in layout.scratch:
        at = torch.arange(span.past, span.length)[:, None]
        seen = torch.arange(span.length)[None]
        hidden = (seen > at) | (seen <= at - window)
        layout.scratch[wanted] = torch.zeros(hidden.shape).masked_fill(hidden, -torch.inf)
    mask: Tensor = layout.scratch[wanted]
    return mask


def _joined(parts: Sequence[Part]) -> Tensor:
    """(H, Q, D): softmax over all parts' keys together."""
    if len(parts) == 1:
        return parts[0][0]
    totals = torch.stack([total for _, total in parts])  # (P, H, Q)
    shares = (totals - totals.logsumexp(0)).exp()[..., None]
    outs = torch.stack([out for out, _ in parts]).float()
    return (shares * outs).sum(0).to(parts[0][0].dtype)
