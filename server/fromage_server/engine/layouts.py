"""Ways to hold a linear layer's weight for products of many rows on a CPU.

``nn.Linear`` hands its weight over row by row, and the kernel library rearranges it at every call.
oneDNN takes weights that were rearranged once (torch's own compiler does the same when it freezes a
model), ``panels`` has a layout and a kernel of its own. Which is faster depends on the processor.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TypeAlias

import torch
from torch import Tensor
from torch.nn import functional

from fromage_server.engine import panels

Product: TypeAlias = Callable[[Tensor], Tensor]
"""(…, in) -> (…, out), with one layer's weight and bias."""
Layout: TypeAlias = Callable[[Tensor, Tensor | None], Product]
"""A weight (out, in) as ``nn.Linear`` stores it, and a bias, to their product."""

# Rows that oneDNN's layout is made for; it serves one row and hundreds nearly as well.
_ROWS = 16
# With how many rows they are tried, how often, and by how much the others have to win.
_TRIED, _TRIALS, _CLEARLY = (16, 96), 5, 0.97
# One that was so many times slower twice is not tried again; the first time it may be cold.
_HOPELESS = 3
# Bytes of weights that they are tried with.
_ENOUGH = 64 << 20


def as_stored(stored: Tensor, bias: Tensor | None) -> Product:
    return partial(by_torch, stored, bias)


def onednn(stored: Tensor, bias: Tensor | None) -> Product:
    return partial(by_onednn, torch.ops.mkldnn._reorder_linear_weight(stored, _ROWS), bias)


def in_panels(stored: Tensor, bias: Tensor | None) -> Product:
    added = None if bias is None else bias.float()
    return partial(by_panels, panels.in_panels(stored), added, len(stored))


def by_torch(weight: Tensor, bias: Tensor | None, x: Tensor) -> Tensor:
    return functional.linear(x, weight, bias)


def by_onednn(packed: Tensor, bias: Tensor | None, x: Tensor) -> Tensor:
    out: Tensor = torch.ops.mkldnn._linear_pointwise(x, packed, bias, "none", [], "")
    return out


def by_panels(weight: Tensor, bias: Tensor | None, outputs: int, x: Tensor) -> Tensor:
    return panels.product(x, weight, bias, outputs)


def layouts_for(dtype: torch.dtype) -> list[Layout]:
    """Those that this machine can compute with, the usual one first; none where torch's own way is
    the only one."""
    if not panels.is_possible(dtype):
        return [onednn] if _onednn_takes(dtype) else []
    return [onednn if _onednn_takes(dtype) else as_stored, in_panels]


@torch.no_grad()
def fastest(layouts: Sequence[Layout], weights: Iterable[Tensor]) -> Layout:
    """Of the first one and those that win against it, tried with the first of ``weights``."""
    best = layouts[0]
    tried = _first_of(weights) if len(layouts) > 1 else []
    if not tried:
        return best
    seconds = _seconds(layouts, tried)
    winner = min(range(1, len(layouts)), key=seconds.__getitem__)
    return layouts[winner] if seconds[winner] < _CLEARLY * seconds[0] else best


def _first_of(weights: Iterable[Tensor]) -> list[Tensor]:
    found: list[Tensor] = []
    for weight in weights:
        found.append(weight)
        if sum(weight.nbytes for weight in found) >= _ENOUGH:
            break
    return found


def _seconds(layouts: Sequence[Layout], weights: Sequence[Tensor]) -> list[float]:
    """Of each, in turn, so that what else a machine does meets all of them."""
    products = [[layout(weight, None) for weight in weights] for layout in layouts]
    whole = [0.0] * len(layouts)
    for rows in _TRIED:
        inputs = [weight.new_zeros(rows, weight.shape[1]) for weight in weights]
        best = [math.inf] * len(layouts)
        for trial in range(_TRIALS * len(layouts)):
            which = trial % len(layouts)
            if trial >= 2 * len(layouts) and best[which] > _HOPELESS * min(best):
                continue
            start = time.perf_counter()
            for product, x in zip(products[which], inputs, strict=True):
                product(x)
            best[which] = min(best[which], time.perf_counter() - start)
        whole = [a + b for a, b in zip(whole, best, strict=True)]
    return whole


def _onednn_takes(dtype: torch.dtype) -> bool:
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    if dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return dtype == torch.float32
