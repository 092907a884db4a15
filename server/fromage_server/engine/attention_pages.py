"""Attention on a GPU, where a kernel reads keys and values page by page through a table.

torch's own ``varlen_attn`` where it has page tables and the model needs no softcap, else the
Triton kernel of ``paged_kernel``. Both take a step's prompts and single tokens in one call.
"""

from __future__ import annotations

import inspect
import logging
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from fromage_server.engine.attention import BLOCK_SIZE, Layout, Scores, Span
from fromage_server.engine.kv_cache import KVShape
from fromage_server.engine.landing import upload

log = logging.getLogger(__name__)
_HALF = (torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class Tables:
    """A step for the kernels, int32. ``starts`` (S + 1,) packed tokens, ``lengths`` (S,) stored
    positions, ``pages`` (S, P), the longest of each, and the Triton kernel's tiles."""

    starts: Tensor
    lengths: Tensor
    pages: Tensor
    most_tokens: int
    most_positions: int

    @classmethod
    def of(cls, layout: Layout) -> Tables:
        def numbers(values: list[int]) -> Tensor:
            return upload(values, torch.int32, layout.device)

        spans = layout.spans
        longest = max(span.length for span in spans)
        # As wide as what is stored so far: a prompt has blocks for all of it from the beginning.
        width = -(-longest // BLOCK_SIZE)
        rows = (s.blocks[:width] + (0,) * (width - len(s.blocks)) for s in spans)
        return cls(
            starts=numbers([0, *(span.stop for span in spans)]),
            lengths=numbers([span.length for span in spans]),
            pages=numbers([block for row in rows for block in row]).view(len(spans), width),
            most_tokens=max(span.count for span in spans),
            most_positions=longest,
        )


def single_tokens(pages: Tensor, lengths: Tensor) -> dict[Any, Any]:
    """The ``scratch`` of a layout whose sequences have one packed token each; nothing in it depends
    on what ``pages`` (S, P) and ``lengths`` (S,) hold."""
    count = len(lengths)
    rows = torch.arange(count + 1, dtype=torch.int32, device=lengths.device)
    tables = Tables(rows, lengths, pages, 1, pages.shape[1] * BLOCK_SIZE)
    return {"tables": tables, ("tiles", 1): (rows[:count], torch.zeros_like(rows[:count]))}


def any_step(starts: Tensor, lengths: Tensor, pages: Tensor, tokens: int) -> dict[Any, Any]:
    """The ``scratch`` of a layout of ``tokens`` packed tokens, whosever they are: nothing in it
    depends on what ``starts`` (S + 1,), ``lengths`` (S,) and ``pages`` (S, P) hold. Sequences may
    have no tokens, as the last one must; the tokens of one with nothing stored are padding."""
    return {"tables": Tables(starts, lengths, pages, tokens, pages.shape[1] * BLOCK_SIZE)}


class PagesBackend:
    """Storage per layer: (2, pages, page, heads, head_dim)."""

    def __init__(self, *, use_varlen: bool | None = None, whole: bool = False) -> None:
        """``whole``: every query's keys are summed in one go, in the same order whatever else is
        there. ``use_varlen`` None: where torch's kernel turns out to work."""
        self._whole = whole
        self._use_varlen = use_varlen

    def allocate(self, shape: KVShape, blocks: int, device: torch.device) -> Tensor:
        size = (shape.layers, 2, blocks, BLOCK_SIZE, shape.heads, shape.head_dim)
        return torch.zeros(size, dtype=shape.dtype, device=device)

    def store(self, layout: Layout, stored: Tensor, key: Tensor, value: Tensor) -> None:
        from fromage_server.engine import paged_kernel

        if len(layout.places):
            key, value = (x if x.stride(2) == 1 else x.contiguous() for x in (key, value))
            keys, values = stored.unbind(0)
            paged_kernel.store(key, value, keys, values, layout.places)

    def attend(
        self,
        layout: Layout,
        stored: Tensor,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        scores: Scores,
    ) -> Tensor:
        self.store(layout, stored, key, value)
        keys, values = stored.unbind(0)
        count = len(layout.places)  # what is behind them is padding
        if "tables" not in layout.scratch:
            layout.scratch["tables"] = Tables.of(layout)
        tables: Tables = layout.scratch["tables"]
        rows = query[:, :count].transpose(0, 1).contiguous()
        if self._takes_varlen(rows, keys, scores):
            out = _varlen(rows, keys, values, tables, scores)
        else:
            splits = 1 if self._whole else _splits(tables, rows, keys.shape[2])
            out = _triton(layout, rows, keys, values, tables, scores, splits)
        missing = query.shape[1] - count
        return functional.pad(out, (0, 0, 0, 0, 0, missing)) if missing else out  # pad copies

    def _takes_varlen(self, query: Tensor, keys: Tensor, scores: Scores) -> bool:
        """Windows and softcaps are the Triton kernel's, and sums that must not be split."""
        if self._whole or scores.softcap or scores.window or query.dtype not in _HALF:
            return False
        if self._use_varlen is None:  # with the first pass, which nobody waits for
            self._use_varlen = has_paged_varlen(keys, query.shape[1])
        return self._use_varlen


def _varlen(query: Tensor, keys: Tensor, values: Tensor, tables: Tables, scores: Scores) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn

    found = varlen_attn(
        query,
        keys,
        values,
        tables.starts,
        None,
        tables.most_tokens,
        tables.most_positions,
        scale=scores.scale,
        window_size=(-1, 0),
        enable_gqa=query.shape[1] != keys.shape[2],
        seqused_k=tables.lengths,
        block_table=tables.pages,
    )
    assert isinstance(found, Tensor)
    return found


def _splits(tables: Tables, query: Tensor, shared: int) -> int:
    """Prompts make programs enough by themselves."""
    from fromage_server.engine.paged_kernel import splits_for

    if tables.most_tokens > 1 or not query.is_cuda:
        return 1
    processors = torch.cuda.get_device_properties(query.device).multi_processor_count
    return splits_for(len(query) * shared, tables.most_positions, processors)


def _triton(
    layout: Layout,
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    tables: Tables,
    scores: Scores,
    splits: int = 1,
) -> Tensor:
    from fromage_server.engine.paged_kernel import paged_attention, tile_tokens

    tokens = tile_tokens(query.shape[1] // keys.shape[2], tables.most_tokens)
    wanted = ("tiles", tokens)
    if wanted not in layout.scratch:
        spans = layout.spans
        layout.scratch[wanted] = _tiles(layout, tokens) if spans else _any_tiles(tables, tokens)
    out = torch.empty_like(query)
    paged_attention(
        query,
        keys,
        values,
        out,
        tables.pages,
        tables.starts,
        tables.lengths,
        layout.scratch[wanted],
        tokens,
        scores.scale,
        scores.window,
        scores.softcap,
        splits,
    )
    return out


def _tiles(layout: Layout, tokens: int) -> tuple[Tensor, Tensor]:
    """For every tile of at most ``tokens`` new tokens its sequence, and its first token there."""
    tiles = [(i, at) for i, s in enumerate(layout.spans) for at in range(0, s.count, tokens)]
    spans, starts = zip(*tiles, strict=True)
    device = layout.device
    return upload(spans, torch.int32, device), upload(starts, torch.int32, device)


def _any_tiles(tables: Tables, tokens: int) -> tuple[Tensor, Tensor]:
    """As many as any step with such ``tables`` may need; those that this one does not are the last
    sequence's, which has no tokens."""
    counts = tables.starts.diff()
    ends = ((counts + tokens - 1) // tokens).cumsum(0)
    most = tables.most_tokens // tokens + len(counts)
    tile = torch.arange(most, device=counts.device)
    sequence = torch.searchsorted(ends, tile, right=True).clamp(max=len(counts) - 1)
    first = (tile - functional.pad(ends[:-1], (1, 0))[sequence]) * tokens
    return sequence.int(), first.int()


def has_paged_varlen(keys: Tensor, heads: int) -> bool:
    """Whether ``varlen_attn`` reads pages like ``keys`` (pages, page, K, D) on their device. Which
    of its kernels does depends on torch and on the GPU (FlashAttention 2 wants pages of 256), so it
    is tried, for a piece of a prompt and for a single token, and compared."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return False
    if "block_table" not in inspect.signature(varlen_attn).parameters:
        return False
    pages, size, shared, dim = (2, *keys.shape[1:])
    states = torch.randn(2, pages, size, shared, dim, dtype=keys.dtype, device=keys.device)
    layout = Layout.of([Span(0, 3, size - 1, (0, 1)), Span(3, 4, 4, (1,))], keys.device)
    query = torch.randn(4, heads, dim, dtype=keys.dtype, device=keys.device)
    scores = Scores(dim**-0.5, 0, 0.0)
    tables = Tables.of(layout)
    expected = _triton(layout, query, states[0], states[1], tables, scores)
    try:
        found = _varlen(query, states[0], states[1], tables, scores)
    except (RuntimeError, ValueError) as error:
        log.info("torch's paged attention is not used: %s", error)
        return False
    return torch.allclose(found.float(), expected.float(), atol=0.05, rtol=0.05)
