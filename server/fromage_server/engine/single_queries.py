"""Calls ``single_queries.cpp``: attention of single queries on a CPU, all sequences and heads in
one call. torch's kernels take one sequence at a time, and for a single query a call costs more than
what it computes.

Without a C++ compiler the engine attends in plain torch.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from ctypes import POINTER, c_float, c_int, c_int64, c_void_p
from functools import cache
from typing import Any, Final

import torch
from torch import Tensor

from fromage_server.engine.compiled import function_of

_NUMBERS: Final = (torch.float32, torch.bfloat16)


class _States(ctypes.Structure):
    _fields_ = (("data", c_void_p), ("head", c_int64), ("token", c_int64))

    @classmethod
    def of(cls, states: Tensor) -> _States:
        return cls(states.data_ptr(), states.stride(0), states.stride(1))


class _Task(ctypes.Structure):
    _fields_ = (
        *((name, c_int64) for name in ("sequences", "heads", "groups", "dim")),
        *((name, c_void_p) for name in ("tokens", "places", "offsets", "ranges")),
        *((name, c_void_p) for name in ("keys", "values")),
        ("storage_head", c_int64),
        *((name, _States) for name in ("query", "key", "value")),
        ("out", c_void_p),
        ("scale", c_float),
        ("softcap", c_float),
    )


class Queries:
    """Whose the single queries of a step are: ``tokens`` (S,), at which ``places`` (S,) their keys
    and values are stored, and the ranges [first, last) of places that each of them sees, its own
    included."""

    def __init__(
        self,
        tokens: Sequence[int],
        places: Sequence[int],
        seen: Sequence[Sequence[tuple[int, int]]],
    ) -> None:
        offsets = [0]
        for ranges in seen:
            offsets.append(offsets[-1] + len(ranges))
        flat = [at for ranges in seen for pair in ranges for at in pair]
        self.count = len(tokens)
        numbers = (*tokens, *places, *offsets, *flat)
        self._numbers = (c_int64 * len(numbers))(*numbers)  # kept as long as the addresses are used
        start = ctypes.addressof(self._numbers)
        self.tokens = start
        self.places = start + 8 * self.count
        self.offsets = start + 16 * self.count
        self.ranges = self.offsets + 8 * (self.count + 1)


class Kernel:
    """``kernel(queries, stored, query, key, value, out, scale, softcap)``."""

    def __init__(self, call: Any) -> None:
        self._call = call
        call.argtypes, call.restype = (POINTER(_Task), c_int), None

    @staticmethod
    def takes(stored: Tensor, query: Tensor, key: Tensor, value: Tensor) -> bool:
        """Whether they are as a call needs them."""
        (_, heads, _, dim), dtype = stored.shape, query.dtype
        states = (query, key, value)
        alike = all(one.dtype == dtype and one.stride(-1) == 1 for one in states)
        shared = len(key) == len(value) == heads and len(query) % heads == 0
        fitting = shared and all(one.shape[-1] == dim for one in states)
        return alike and fitting and dtype in _NUMBERS and stored.dtype == torch.float32

    def __call__(
        self,
        queries: Queries,
        stored: Tensor,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        out: Tensor,
        scale: float,
        softcap: float,
    ) -> None:
        """``stored`` (2, K, P, D) float32; (H, N, D) ``query``, (K, N, D) ``key`` and ``value``,
        whose numbers of one head stand together, and (N, H, D) ``out`` are float32 or bfloat16.
        Writes the rows of ``queries`` alone."""
        heads, dim = stored.shape[1], stored.shape[3]
        keys = stored.data_ptr()
        task = _Task(
            queries.count, heads, query.shape[0] // heads, dim,
            queries.tokens, queries.places, queries.offsets, queries.ranges,
            keys, keys + stored.stride(0) * stored.element_size(), stored.stride(1),
            _States.of(query), _States.of(key), _States.of(value),
            out.data_ptr(), scale, softcap,
        )  # fmt: skip
        self._call(ctypes.byref(task), query.dtype == torch.bfloat16)


@cache
def kernel() -> Kernel | None:
    """None where it cannot be built."""
    otherwise = "attention on the CPU runs in plain torch"
    call = function_of("single_queries", "fromage_single_queries", otherwise)
    return None if call is None else Kernel(call)
