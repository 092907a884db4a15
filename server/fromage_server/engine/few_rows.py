"""Calls ``few_rows.cpp``: a few rows times a matrix as it is stored. torch's libraries are made for
many rows, and read a matrix slower than memory could give it.

Without a C++ compiler there is no such kernel.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from ctypes import POINTER, c_int, c_int64, c_void_p
from functools import cache
from typing import Any, TypeAlias

import torch
from torch import Tensor

from fromage_server.engine.compiled import function_of
from fromage_server.engine.opaque import opaque

FewRows: TypeAlias = Callable[[Tensor, Tensor, Tensor | None], Tensor]
NUMBERS = (torch.float32, torch.bfloat16)


class Task(ctypes.Structure):
    """A product, as both kernels of rows are told of it (``panels``, too)."""

    _fields_ = (
        *((name, c_void_p) for name in ("weight", "x", "bias", "out")),
        *((name, c_int64) for name in ("rows", "outputs", "width")),
    )


@opaque("few_rows(Tensor x, Tensor weight, Tensor? bias) -> Tensor")
def few_rows(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """What ``nn.Linear`` makes of ``x`` (…, in); ``weight`` (out, in) and ``bias`` (out,) are
    contiguous, and all are float32 or all bfloat16."""
    outputs, width = weight.shape
    assert x.dtype == weight.dtype, (x.dtype, weight.dtype)
    x = x.contiguous()
    out = x.new_empty((*x.shape[:-1], outputs))
    task = Task(
        weight.data_ptr(),
        x.data_ptr(),
        None if bias is None else bias.data_ptr(),
        out.data_ptr(),
        x.shape[:-1].numel(),
        outputs,
        width,
    )
    call = _call()
    assert call is not None
    call(ctypes.byref(task), x.dtype == torch.bfloat16)
    return out


def kernel(dtype: torch.dtype) -> FewRows | None:
    """``few_rows``, where it can be built and takes such numbers."""
    return few_rows if dtype in NUMBERS and _call() else None


@cache
def _call() -> Any:
    call = function_of("few_rows", "fromage_few_rows", "products of a few rows are torch's")
    if call is not None:
        call.argtypes, call.restype = (POINTER(Task), c_int), None
    return call
