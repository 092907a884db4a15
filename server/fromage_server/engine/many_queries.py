"""Calls ``many_queries.cpp``: attention of prompts' new tokens on a CPU, all sequences and heads in
one call, keys and values read where they lie. torch's kernels take one sequence at a time, and more
time for it.

Without a C++ compiler the engine attends in plain torch.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from ctypes import POINTER, c_float, c_int64, c_void_p
from functools import cache
from typing import Any

import torch
from torch import Tensor

from fromage_server.engine.attention import Layout, Scores, Span, places_of
from fromage_server.engine.compiled import function_of


class _Attention(ctypes.Structure):
    _fields_ = (
        *((name, c_int64) for name in ("count", "heads", "groups", "dim")),
        *((name, c_void_p) for name in ("spans", "ranges", "keys", "values")),
        ("storage_head", c_int64),
        ("query", c_void_p),
        ("query_head", c_int64),
        ("query_token", c_int64),
        ("out", c_void_p),
        ("window", c_int64),
        ("scale", c_float),
    )


class Prompts:
    """``spans`` of a step, and the ranges [first, last) of places where all positions of each lie,
    the new ones among them."""

    def __init__(self, spans: Sequence[Span], seen: Sequence[Sequence[tuple[int, int]]]) -> None:
        told: list[int] = []
        flat: list[int] = []
        for span, ranges in zip(spans, seen, strict=True):
            start = len(flat) // 2
            told += (span.start, span.count, span.past, start, start + len(ranges))
            flat += (at for pair in ranges for at in pair)
        self.count = len(spans)
        self._numbers = (c_int64 * (len(told) + len(flat)))(*told, *flat)  # kept as long as used
        self.spans = ctypes.addressof(self._numbers)
        self.ranges = self.spans + 8 * len(told)


def takes_prompts(stored: Tensor, query: Tensor, softcap: float) -> bool:
    """Whether the kernel knows such attention; ``stored`` (2, K, P, D), ``query`` (H, N, D)."""
    fitting = len(query) % stored.shape[1] == 0 and query.shape[2] == stored.shape[3]
    dense = query.stride(2) == 1 and query.dtype == stored.dtype == torch.float32
    return fitting and dense and not softcap


class PromptKernel:
    """``kernel(prompts, keys, values, query, out, scale, window)``."""

    def __init__(self, call: Any) -> None:
        self._call = call
        call.argtypes, call.restype = (POINTER(_Attention),), None

    def attend(
        self,
        layout: Layout,
        stored: Tensor,
        query: Tensor,
        out: Tensor,
        scores: Scores,
        *,
        whole: bool,
    ) -> None:
        """The rows of ``out`` (N, H, D), float32 or bfloat16, of sequences with several new tokens,
        whose keys and values are in ``stored`` (2, K, P, D). ``whole``: these are copied together
        first, so that what comes out does not depend on where they lie."""
        keys, values = stored.unbind(0)
        found = out if out.dtype == query.dtype else torch.empty_like(out, dtype=query.dtype)
        told = scores.scale, scores.window
        spans, prompts = _prompts(layout)
        if not whole:
            self(prompts, keys, values, query, found, *told)
        for span in spans:
            if whole:
                runs = places_of(span.blocks, span.length)
                k, v = (torch.cat([one[:, a:b] for a, b in runs], 1) for one in (keys, values))
                self(Prompts([span], [[(0, span.length)]]), k, v, query, found, *told)
            if found is not out:
                out[span.start : span.stop] = found[span.start : span.stop]

    def __call__(
        self,
        prompts: Prompts,
        keys: Tensor,
        values: Tensor,
        query: Tensor,
        out: Tensor,
        scale: float,
        window: int,
    ) -> None:
        """``keys`` and ``values`` (K, P, D), ``query`` (H, N, D), ``out`` (N, H, D), all float32,
        H a multiple of K. Writes the rows of ``prompts`` alone."""
        heads, _, dim = keys.shape
        assert all(one.dtype == torch.float32 for one in (keys, values, query, out))
        assert keys.stride() == values.stride()
        assert keys.stride()[1:] == (dim, 1) == (query.shape[2], query.stride(2))
        assert out.is_contiguous()
        assert len(query) % heads == 0
        task = _Attention(
            prompts.count, heads, len(query) // heads, dim,
            prompts.spans, prompts.ranges, keys.data_ptr(), values.data_ptr(), keys.stride(0),
            query.data_ptr(), query.stride(0), query.stride(1),
            out.data_ptr(), window, scale,
        )  # fmt: skip
        self._call(ctypes.byref(task))


def _prompts(layout: Layout) -> tuple[list[Span], Prompts]:
    if "prompts" not in layout.scratch:
        spans = [span for span in layout.spans if span.count > 1]
        seen = [places_of(span.blocks, span.length) for span in spans]
        layout.scratch["prompts"] = spans, Prompts(spans, seen)
    found: tuple[list[Span], Prompts] = layout.scratch["prompts"]
    return found


@cache
def kernel() -> PromptKernel | None:
    """None where it cannot be built."""
    otherwise = "prompts' attention on the CPU runs in plain torch"
    call = function_of("many_queries", "fromage_many_queries", otherwise)
    return None if call is None else PromptKernel(call)
