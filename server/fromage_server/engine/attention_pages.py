"""Attention on a GPU, where a kernel reads keys and values page by page through a table.

torch's own ``varlen_attn`` where it has page tables and the model needs no softcap, else the
Triton kernel of ``paged_kernel``. Both take a step's prompts and single tokens in one call.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from fromage_server.engine.attention import BLOCK_SIZE, Layout, Scores
from fromage_server.engine.kv_cache import KVShape

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
        def numbers(values: list[Any]) -> Tensor:
            return torch.tensor(values, dtype=torch.int32, device=layout.device)

        spans = layout.spans
        widest = max(len(span.blocks) for span in spans)
        return cls(
            starts=numbers([0, *(span.stop for span in spans)]),
            lengths=numbers([span.length for span in spans]),
            pages=numbers([[*s.blocks, *[0] * (widest - len(s.blocks))] for s in spans]),
            most_tokens=max(span.count for span in spans),
            most_positions=max(span.length for span in spans),
        )


def single_tokens(pages: Tensor, lengths: Tensor) -> dict[Any, Any]:
    """The ``scratch`` of a layout whose sequences have one packed token each; nothing in it depends
    on what ``pages`` (S, P) and ``lengths`` (S,) hold."""
    count = len(lengths)
    rows = torch.arange(count + 1, dtype=torch.int32, device=lengths.device)
    tables = Tables(rows, lengths, pages, 1, pages.shape[1] * BLOCK_SIZE)
    return {"tables": tables, ("tiles", 1): (rows[:count], torch.zeros_like(rows[:count]))}


class PagesBackend:
    """Storage per layer: (2, pages, page, heads, head_dim)."""

    def __init__(self, *, use_varlen: bool | None = None, num_splits: int | None = None) -> None:
        """``num_splits`` 1: torch's kernel sums every query's keys in one go."""
        self._num_splits = num_splits
        self._use_varlen = has_paged_varlen() if use_varlen is None else use_varlen

    def allocate(self, shape: KVShape, blocks: int, device: torch.device) -> Tensor:
        size = (shape.layers, 2, blocks, BLOCK_SIZE, shape.heads, shape.head_dim)
        return torch.zeros(size, dtype=shape.dtype, device=device)

    def attend(
        self,
        layout: Layout,
        stored: Tensor,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        scores: Scores,
    ) -> Tensor:
        keys, values = stored.unbind(0)
        count = len(layout.places)  # what is behind them is padding
        for states, pages in ((key, keys), (value, values)):
            fresh = states[:, :count].transpose(0, 1)
            pages.view(-1, *pages.shape[2:]).index_copy_(0, layout.places, fresh)
        if "tables" not in layout.scratch:
            layout.scratch["tables"] = Tables.of(layout)
        tables: Tables = layout.scratch["tables"]
        rows = query[:, :count].transpose(0, 1).contiguous()
        if self._use_varlen and not scores.softcap and query.dtype in _HALF:
            out = _varlen(rows, keys, values, tables, scores, self._num_splits)
        else:
            out = _triton(layout, rows, keys, values, tables, scores)
        return functional.pad(out, (0, 0, 0, 0, 0, query.shape[1] - count))


def _varlen(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    tables: Tables,
    scores: Scores,
    num_splits: int | None,
) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn

    # Its window counts the positions to the left, without the query's own.
    left = scores.window - 1 if scores.window else -1
    found = varlen_attn(
        query,
        keys,
        values,
        tables.starts,
        None,
        tables.most_tokens,
        tables.most_positions,
        scale=scores.scale,
        window_size=(left, 0),
        enable_gqa=query.shape[1] != keys.shape[2],
        seqused_k=tables.lengths,
        block_table=tables.pages,
        num_splits=num_splits,
    )
    assert isinstance(found, Tensor)
    return found


def _triton(
    layout: Layout, query: Tensor, keys: Tensor, values: Tensor, tables: Tables, scores: Scores
) -> Tensor:
    from fromage_server.engine.paged_kernel import paged_attention, tile_tokens

    tokens = tile_tokens(query.shape[1] // keys.shape[2], tables.most_tokens)
    wanted = ("tiles", tokens)
    if wanted not in layout.scratch:
        layout.scratch[wanted] = _tiles(layout, tokens)
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
    )
    return out


def _tiles(layout: Layout, tokens: int) -> tuple[Tensor, Tensor]:
    """For every tile of at most ``tokens`` new tokens its sequence, and its first token there."""
    tiles = [(i, at) for i, s in enumerate(layout.spans) for at in range(0, s.count, tokens)]
    numbers = torch.tensor(tiles, dtype=torch.int32, device=layout.device)
    return numbers[:, 0].contiguous(), numbers[:, 1].contiguous()


def has_paged_varlen() -> bool:
    """Whether this torch's ``varlen_attn`` reads page tables."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return False
    return "block_table" in inspect.signature(varlen_attn).parameters
