"""Attention over paged keys and values as one Triton kernel, for prompts and single tokens alike.

A program takes a tile of one sequence's new tokens with all query heads that share a key head, and
walks over the pages of that sequence, softmax on the way (FlashAttention-2: Dao 2023, algorithm 1).
Where that makes too few programs to occupy the device, several share a sequence's keys, and a
second kernel joins what they found (Flash-Decoding: Dao, Haziza, Massa, Sizov 2023).
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit  # type: ignore[untyped-decorator]
def _scores(q, k, scale, softcap, CAPPED: tl.constexpr):  # type: ignore[no-untyped-def]
    scores = tl.dot(q, tl.trans(k), input_precision="ieee") * scale
    if CAPPED:
        scores = softcap * (2.0 / (1.0 + tl.exp(-2.0 * scores / softcap)) - 1.0)  # tanh
    return scores


@triton.jit
def _faded(scores, best):  # type: ignore[no-untyped-def]
    """The new maximum, the weights, and what is left of those before."""
    higher = tl.maximum(best, tl.max(scores, 1))
    # Rows that have seen nothing yet keep -inf; 0 in its place avoids inf - inf.
    base = tl.where(higher == float("-inf"), 0.0, higher)
    return higher, tl.exp(scores - base[:, None]), tl.exp(best - base)


@triton.jit  # type: ignore[untyped-decorator]
def _share(begin, stop, SPLITS: tl.constexpr, COLUMNS: tl.constexpr):  # type: ignore[no-untyped-def]
    split = tl.program_id(2)
    each = tl.cdiv(tl.cdiv(stop - begin, COLUMNS), SPLITS) * COLUMNS
    return begin + split * each, tl.minimum(begin + (split + 1) * each, stop)


# What is read of a prompt so far makes tables of any width.
@triton.jit(do_not_specialize=["table_row"])  # type: ignore[untyped-decorator]
def _kernel(  # type: ignore[no-untyped-def]
    query, keys, values, out, parts, table, starts, lengths, tile_of, first_of,
    scale, softcap,
    q_token, q_head, kv_page, kv_place, kv_head, out_token, out_head, table_row,
    WINDOW: tl.constexpr, CAPPED: tl.constexpr, SPLITS: tl.constexpr,
    GROUP: tl.constexpr, ROWS: tl.constexpr, TOKENS: tl.constexpr,
    COLUMNS: tl.constexpr, PAGE: tl.constexpr, DIM: tl.constexpr, DIM_PADDED: tl.constexpr,
):  # fmt: skip
    tile, shared_head = tl.program_id(0), tl.program_id(1)
    sequence, first = tl.load(tile_of + tile), tl.load(first_of + tile)
    start = tl.load(starts + sequence)
    count = tl.load(starts + sequence + 1) - start
    if first >= count:  # recorded passes have as many tiles as any step may need
        return
    length = tl.load(lengths + sequence)

    row = tl.arange(0, ROWS)
    token, head = first + row // GROUP, shared_head * GROUP + row % GROUP
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
    if SPLITS > 1:
        begin, stop = _share(begin, stop, SPLITS, COLUMNS)
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
        best, weights, faded = _faded(scores, best)
        v = tl.load(values + place[:, None] + dim[None, :], mask=mask, other=0.0)
        sums = sums * faded[:, None] + tl.dot(weights.to(v.dtype), v, input_precision="ieee")
        total = total * faded + tl.sum(weights, 1)
    result = sums / tl.where(total > 0, total, 1.0)[:, None]
    mask = is_row[:, None] & is_dim[None, :]
    if SPLITS == 1:
        to = out + (start + token)[:, None] * out_token + head[:, None] * out_head + dim[None, :]
        tl.store(to, result.to(out.dtype.element_ty), mask=mask)
    else:
        heads = tl.num_programs(1) * GROUP
        part = parts + (((start + token) * heads + head) * SPLITS + tl.program_id(2)) * (DIM + 1)
        tl.store(part[:, None] + dim[None, :], result, mask=mask)
        tl.store(part + DIM, best + tl.log(total), mask=is_row)  # -inf where nothing was seen


@triton.jit  # type: ignore[untyped-decorator]
def _join(  # type: ignore[no-untyped-def]
    parts, out, out_token, out_head,
    SPLITS: tl.constexpr, DIM: tl.constexpr, DIM_PADDED: tl.constexpr,
):  # fmt: skip
    token, head = tl.program_id(0), tl.program_id(1)
    dim = tl.arange(0, DIM_PADDED)
    is_dim = dim < DIM
    first = (token * tl.num_programs(1) + head) * SPLITS
    part = parts + (first + tl.arange(0, SPLITS)) * (DIM + 1)
    sizes = tl.load(part + DIM)
    shares = tl.exp(sizes - tl.max(sizes, 0))
    found = tl.load(part[:, None] + dim[None, :], mask=is_dim[None, :], other=0.0)
    joined = tl.sum(found * shares[:, None], 0) / tl.sum(shares, 0)
    to = out + token * out_token + head * out_head + dim
    tl.store(to, joined.to(out.dtype.element_ty), mask=is_dim)


@triton.jit  # type: ignore[untyped-decorator]
def _keep(  # type: ignore[no-untyped-def]
    key, value, keys, values, places,
    key_head, key_token, value_head, value_token, kv_place, kv_head, place,
    DIM: tl.constexpr, DIM_PADDED: tl.constexpr,
):  # fmt: skip
    token, head = tl.program_id(0), tl.program_id(1)
    dim = tl.arange(0, DIM_PADDED)
    is_dim = dim < DIM
    to = tl.load(places + token * place) * kv_place + head * kv_head + dim
    k = tl.load(key + head * key_head + token * key_token + dim, mask=is_dim)
    tl.store(keys + to, k, mask=is_dim)
    v = tl.load(value + head * value_head + token * value_token + dim, mask=is_dim)
    tl.store(values + to, v, mask=is_dim)


def store(key: Tensor, value: Tensor, keys: Tensor, values: Tensor, places: Tensor) -> None:
    """The first N tokens' states of (K, N or more, D) ``key`` and ``value``, each head's numbers
    side by side, at ``places`` (N,) int64 of the contiguous ``keys`` and ``values`` (pages, page,
    K, D)."""
    heads, _, dim = key.shape
    _keep[(len(places), heads)](
        key, value, keys, values, places,
        key.stride(0), key.stride(1), value.stride(0), value.stride(1),
        keys.stride(1), keys.stride(2), places.stride(0),
        DIM=dim, DIM_PADDED=triton.next_power_of_2(dim),
    )  # fmt: skip


def splits_for(programs: int, positions: int, processors: int) -> int:
    """Programs that share a sequence's keys: a power of two, for four programs a processor, with at
    least 128 of the ``positions`` for each, at most 32."""
    most = min(-(-4 * processors // programs), positions // 128, 32)
    return 1 << max(most, 1).bit_length() - 1


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
    splits: int = 1,
) -> None:
    """Fills ``out`` (N, H, D) from ``query`` (N, H, D) and the pages ``keys``, ``values``
    (pages, page, K, D). Sequence s has the packed tokens [starts[s], starts[s + 1]) and
    ``lengths[s]`` stored positions, these included, on the pages ``table[s]``. ``tiles``: for each
    program its sequence and the first of its ``tokens`` tokens there. ``splits``, a power of two:
    programs that share a tile's keys."""
    heads, dim = query.shape[1:]
    shared = keys.shape[2]
    group = heads // shared
    padded = max(16, triton.next_power_of_2(dim))
    parts = out
    if splits > 1:  # the means of their keys' values, and behind them the log of their weights' sum
        size = (len(query), heads, splits, dim + 1)
        parts = torch.empty(size, dtype=torch.float32, device=query.device)
    _kernel[(len(tiles[0]), shared, splits)](
        query, keys, values, out, parts, table, starts, lengths, tiles[0], tiles[1],
        scale, softcap,
        query.stride(0), query.stride(1), keys.stride(0), keys.stride(1), keys.stride(2),
        out.stride(0), out.stride(1), table.stride(0),
        WINDOW=window, CAPPED=softcap > 0, SPLITS=splits,
        GROUP=group, ROWS=max(16, triton.next_power_of_2(tokens * group)), TOKENS=tokens,
        COLUMNS=64 if dim <= 128 else 32, PAGE=keys.shape[1],
        DIM=dim, DIM_PADDED=padded,
    )  # fmt: skip
    if splits > 1:
        _join[(len(query), heads)](
            parts, out, out.stride(0), out.stride(1), SPLITS=splits, DIM=dim, DIM_PADDED=padded
        )
