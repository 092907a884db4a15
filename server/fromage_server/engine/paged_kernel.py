"""Attention over paged keys and values as one Triton kernel, for prompts and single tokens alike.

A program takes a tile of one sequence's new tokens with all query heads that share a key head, and
walks over the pages of that sequence, softmax on the way (FlashAttention-2: Dao 2023, algorithm 1).
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor


@triton.jit  # type: ignore[untyped-decorator]
def _scores(q, k, scale, softcap, CAPPED: tl.constexpr):  # type: ignore[no-untyped-def]
    scores = tl.dot(q, tl.trans(k), input_precision="ieee") * scale
    if CAPPED:
        scores = softcap * (2.0 / (1.0 + tl.exp(-2.0 * scores / softcap)) - 1.0)  # tanh
    return scores


@triton.jit  # type: ignore[untyped-decorator]
def _kernel(  # type: ignore[no-untyped-def]
    query, keys, values, out, table, starts, lengths, tile_of, first_of,
    scale, softcap,
    q_token, q_head, kv_page, kv_place, kv_head, out_token, out_head, table_row,
    WINDOW: tl.constexpr, CAPPED: tl.constexpr,
    GROUP: tl.constexpr, ROWS: tl.constexpr, TOKENS: tl.constexpr,
    COLUMNS: tl.constexpr, PAGE: tl.constexpr, DIM: tl.constexpr, DIM_PADDED: tl.constexpr,
):  # fmt: skip
    tile = tl.program_id(0)
    shared_head = tl.program_id(1)
    sequence = tl.load(tile_of + tile)
    first = tl.load(first_of + tile)
    start = tl.load(starts + sequence)
    count = tl.load(starts + sequence + 1) - start
    length = tl.load(lengths + sequence)

    row = tl.arange(0, ROWS)
    token = first + row // GROUP
    head = shared_head * GROUP + row % GROUP
    is_row = (row < TOKENS * GROUP) & (token < count)
    at = length - count + token
    dim = tl.arange(0, DIM_PADDED)
    is_dim = dim < DIM
    at_query = query + (start + token)[:, None] * q_token + head[:, None] * q_head + dim[None, :]
    q = tl.load(at_query, mask=is_row[:, None] & is_dim[None, :], other=0.0)
    best = tl.full([ROWS], float("-inf"), tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    sums = tl.zeros([ROWS, DIM_PADDED], tl.float32)

    stop = tl.minimum(length, length - count + first + TOKENS)
    begin = 0
    if WINDOW > 0:
        begin = tl.maximum(length - count + first - WINDOW + 1, 0) // COLUMNS * COLUMNS
    for left in range(begin, stop, COLUMNS):
        column = left + tl.arange(0, COLUMNS)
        is_column = column < stop
        page = tl.load(table + sequence * table_row + column // PAGE, mask=is_column, other=0)
        place = page.to(tl.int64) * kv_page + (column % PAGE) * kv_place + shared_head * kv_head
        mask = is_column[:, None] & is_dim[None, :]
        k = tl.load(keys + place[:, None] + dim[None, :], mask=mask, other=0.0)
        scores = _scores(q, k, scale, softcap, CAPPED)
        seen = is_row[:, None] & is_column[None, :] & (column[None, :] <= at[:, None])
        if WINDOW > 0:
            seen = seen & (column[None, :] > at[:, None] - WINDOW)
        scores = tl.where(seen, scores, float("-inf"))
        higher = tl.maximum(best, tl.max(scores, 1))
        # Rows that have seen nothing yet keep -inf; 0 in its place avoids inf - inf.
        base = tl.where(higher == float("-inf"), 0.0, higher)
        weights = tl.exp(scores - base[:, None])
        faded = tl.exp(best - base)
        v = tl.load(values + place[:, None] + dim[None, :], mask=mask, other=0.0)
        sums = sums * faded[:, None] + tl.dot(weights.to(v.dtype), v, input_precision="ieee")
        total = total * faded + tl.sum(weights, 1)
        best = higher
    result = sums / tl.where(total > 0, total, 1.0)[:, None]
    to = out + (start + token)[:, None] * out_token + head[:, None] * out_head + dim[None, :]
    tl.store(to, result.to(out.dtype.element_ty), mask=is_row[:, None] & is_dim[None, :])


def tile_tokens(group: int, longest: int) -> int:
    """New tokens a program takes: one while only single tokens come, else a tile of 64 rows."""
    return 1 if longest == 1 else max(1, 64 // group)


def paged_attention(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    out: Tensor,
    table: Tensor,
    starts: Tensor,
    lengths: Tensor,
    tiles: tuple[Tensor, Tensor],
    tokens: int,
    scale: float,
    window: int,
    softcap: float,
) -> None:
    """Fills ``out`` (N, H, D) from ``query`` (N, H, D) and the pages ``keys``, ``values``
    (pages, page, K, D). Sequence s has the packed tokens [starts[s], starts[s + 1]) and
    ``lengths[s]`` stored positions, these included, on the pages ``table[s]``. ``tiles``: for each
    program its sequence and the first of its ``tokens`` tokens there."""
    heads, dim = query.shape[1:]
    shared = keys.shape[2]
    group = heads // shared
    _kernel[(len(tiles[0]), shared)](
        query, keys, values, out, table, starts, lengths, tiles[0], tiles[1],
        scale, softcap,
        query.stride(0), query.stride(1), keys.stride(0), keys.stride(1), keys.stride(2),
        out.stride(0), out.stride(1), table.stride(0),
        WINDOW=window, CAPPED=softcap > 0,
        GROUP=group, ROWS=max(16, triton.next_power_of_2(tokens * group)), TOKENS=tokens,
        COLUMNS=64 if dim <= 128 else 32, PAGE=keys.shape[1],
        DIM=dim, DIM_PADDED=max(16, triton.next_power_of_2(dim)),
    )  # fmt: skip
