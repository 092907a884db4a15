"""Calls ``panels.cpp``: many rows times a matrix that was rearranged once.

Where a processor has no wider vectors than AVX2's, torch's libraries reach two thirds of what it
can compute, and in bfloat16 much less. Without a C++ compiler there is no such kernel.
"""

from __future__ import annotations

import ctypes
from ctypes import POINTER, c_int, c_int64
from functools import cache
from typing import Any

import torch
from torch import Tensor

from fromage_server.engine.compiled import function_of
from fromage_server.engine.few_rows import NUMBERS, Task
from fromage_server.engine.opaque import opaque


def in_panels(weight: Tensor) -> Tensor:
    """(out, in), float32 or bfloat16 -> (panels, in, panel): the last panel ends in zeros. In
    bfloat16 the outputs of a panel's halves alternate."""
    outputs, width = weight.shape
    panel = panel_outputs()
    whole, rest = divmod(outputs, panel)
    packed = weight.new_empty(whole + bool(rest), width, panel)
    # In place: beside a large matrix there may be no room for another one.
    _arrange(weight[: whole * panel], packed[:whole])
    if rest:
        last = weight.new_zeros(panel, width)
        last[:rest] = weight[whole * panel :]
        _arrange(last, packed[whole:])
    return packed


def _arrange(weight: Tensor, packed: Tensor) -> None:
    """Whole panels."""
    panels, width, panel = packed.shape
    halves = weight.view(panels, 2, panel // 2, width)
    if weight.dtype == torch.float32:
        packed.view(panels, width, 2, panel // 2).copy_(halves.permute(0, 3, 1, 2))
    else:
        packed.view(panels, width, panel // 2, 2).copy_(halves.permute(0, 3, 2, 1))


@opaque("panels(Tensor x, Tensor weight, Tensor? bias, int outputs) -> Tensor")
def product(x: Tensor, weight: Tensor, bias: Tensor | None, outputs: int) -> Tensor:
    """What ``nn.Linear`` makes of ``x`` (…, in), with ``in_panels(weight)`` and ``bias`` (out,) in
    float32; sums are float32."""
    width = weight.shape[1]
    assert x.shape[-1] == width, (x.shape, weight.shape)
    numbers = x.float().contiguous()
    out = numbers.new_empty((*x.shape[:-1], outputs))
    task = Task(
        weight.data_ptr(),
        numbers.data_ptr(),
        None if bias is None else bias.data_ptr(),
        out.data_ptr(),
        numbers.shape[:-1].numel(),
        outputs,
        width,
    )
    _call()(ctypes.byref(task), weight.dtype == torch.bfloat16)
    return out.to(x.dtype)


def is_possible(dtype: torch.dtype) -> bool:
    """Whether the kernel takes such numbers and can be built."""
    return dtype in NUMBERS and _call() is not None


@cache
def panel_outputs() -> int:
    """How many outputs a panel has on this machine."""
    size = function_of("panels", "fromage_panel", "")
    size.restype = c_int64
    return int(size())


@cache
def _call() -> Any:
    call = function_of("panels", "fromage_panels", "products of many rows are torch's")
    if call is not None:
        call.argtypes, call.restype = (POINTER(Task), c_int), None
    return call
