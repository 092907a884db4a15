"""Weights in the order in which a CPU's matrix kernels read them.

A layer's weight is rearranged once (``layouts``). Up to some number of rows the weights as they
were stored may be faster (``few_rows``); where memory allows, both stay.

Weights in int8 are multiplied as they are where few rows meet them, and turned into the other
side's numbers for many; torchao itself always does the latter, in new memory each time.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from fromage_server.engine.few_rows import FewRows, kernel
from fromage_server.engine.greedy_head import GreedyHead, bytes_beside, is_possible
from fromage_server.engine.layouts import Layout, Product, fastest, layouts_for

# Up to so many rows torch's int8 product is the faster way; it takes bfloat16 on the other side.
_FEW_ROWS = 16
# With how many rows both ways are tried, how often, and by how much the one that costs memory has
# to win.
_TRIED, _TRIALS, _CLEARLY = (1, 4, 8, 16), 5, 0.97
# Bytes of weights that are enough to try: more than any cache holds.
_ENOUGH = 1 << 30


@dataclass(frozen=True)
class _Layer:
    """A linear layer, its weight (out, in) as it was stored, and its product by another layout."""

    module: Any
    stored: Tensor
    product: Product

    def take(self, few: FewRows, most: int, *, keep: bool) -> None:
        """Compute with the rearranged weight, up to ``most`` rows by ``few`` with the stored one;
        drop that where it is needed neither there nor (``keep``) elsewhere."""
        self.module.forward = self.product
        if most:
            bias = self.module.bias
            self.module.forward = partial(
                product_or_few, self.product, self.stored, bias, few, most
            )
        if not keep:
            empty = torch.empty(0, dtype=self.stored.dtype)
            self.module.weight = nn.Parameter(empty, requires_grad=False)


def pack_linears(lm: nn.Module, spare: int = 0, *, by_trial: bool = True) -> int:
    """Rearrange the weights of all linear layers of ``lm``, which is on the CPU, and drop the
    originals that nothing else needs; for inference only, and the last thing done to a model: what
    it holds can no longer be saved. Layers in int4 bring a kernel of their own and are left alone.
    Returns how many layers it changed; 0 where the CPU or the dtype has no such kernels.

    ``spare`` bytes may go to the originals, where this machine multiplies a few rows faster by
    them: that is tried out. If enough are left, the head gets ``make_greedy_head()``, for an engine
    that can use it. Without ``by_trial`` nothing hangs on what was faster when the server started:
    products are the same in the next one."""
    dtype = next(lm.parameters()).dtype
    scratch = _Scratch()
    quantized: list[Any] = [module for module in lm.modules() if _is_int8(module)]
    for module in quantized:
        module.forward = partial(_int8_product, module.weight, module.bias, scratch)
    layouts = layouts_for(dtype)
    if not layouts:
        return len(quantized)
    shared = _shared_weights(lm)
    modules: list[Any] = [module for module in lm.modules() if _is_linear(module)]
    found = [
        module
        for module in modules
        if module.weight.dtype == dtype and type(module.weight) is nn.Parameter
    ]
    kept = [module.weight.data_ptr() in shared for module in found]
    sizes = [0 if keep else module.weight.nbytes for module, keep in zip(found, kept, strict=True)]
    few = kernel(dtype) or functional.linear
    layout = fastest(layouts, map(_stored, found)) if by_trial else layouts[0]
    # One by one: there may be no room for both.
    layers: Iterable[_Layer] = (_packed(module, layout) for module in found)
    most = 0
    if by_trial and sum(sizes) <= spare:
        both = list(layers)
        layers, most = both, _most_rows(few, both)
    head = _head_of(lm)
    for layer, keep in zip(layers, kept, strict=True):
        needed = bytes_beside(*layer.stored.shape)
        left = spare - sum(sizes) * bool(most)
        # A tied head's stored weight costs nothing.
        rows = _most_rows(few, [layer]) if keep and by_trial and not most else most
        layer.take(few, rows, keep=keep)
        greedy = layer.module is head and 0 < needed <= left and is_possible(dtype)
        if greedy and (most or keep):
            head.make_greedy_head = partial(_greedy_head, layer)
    return len(found) + len(quantized)


@torch.no_grad()
def _greedy_head(layer: _Layer) -> GreedyHead | None:
    """Of the head, where it pays."""
    with suppress(ValueError):
        made = GreedyHead(layer.stored, layer.module.bias)
        made.try_out(layer.module)
        if made.most:
            return made
    return None


@torch.no_grad()
def _most_rows(few: FewRows, layers: Sequence[_Layer]) -> int:
    """How many rows at most pass the layers sooner by ``few`` and their stored weights; 0 where not
    even one does."""
    sizes = accumulate(layer.stored.nbytes for layer in layers)
    tried = [layer for layer, size in zip(layers, sizes, strict=True) if size <= _ENOUGH]
    tried = tried or list(layers[:1])  # however large
    most = 0
    for rows in _TRIED if tried else ():
        pairs = [(layer, layer.stored.new_zeros(rows, layer.stored.shape[1])) for layer in tried]
        stored, packed = math.inf, math.inf
        for _ in range(_TRIALS):
            start = time.perf_counter()
            for layer, x in pairs:
                few(x, layer.stored, None)
            middle = time.perf_counter()
            for layer, x in pairs:
                layer.product(x)
            stored = min(stored, middle - start)
            packed = min(packed, time.perf_counter() - middle)
        if stored >= _CLEARLY * packed:
            break
        most = rows
    return most


def second_layout_bytes(lm: nn.Module, dtype: torch.dtype, spare: int) -> int:
    """What `pack_linears` may keep beside the weights that every model has, of an outline, too."""
    modules: list[Any] = list(lm.modules())
    shared = [id(module.weight) for module in modules if isinstance(module, nn.Embedding)]
    kept = (m.weight for m in modules if _is_linear(m) and id(m.weight) not in shared)
    needed = dtype.itemsize * sum(weight.numel() for weight in kept)
    if not layouts_for(dtype):
        return 0
    needed = needed if needed <= spare else 0
    head = _head_of(lm)
    if head is None or not _is_linear(head) or not (needed or id(head.weight) in shared):
        return needed
    greedy = bytes_beside(*head.weight.shape) if is_possible(dtype) else 0
    return needed + (greedy if needed + greedy <= spare else 0)


def _is_linear(module: Any) -> bool:
    return type(module) is nn.Linear or type(module).__name__ == "Conv1D"


def _head_of(lm: Any) -> Any:
    """None for what has none."""
    return lm.get_output_embeddings() if hasattr(lm, "get_output_embeddings") else None


def _is_int8(module: Any) -> bool:
    """torchao's symmetric int8, a scale for each row."""
    weight = getattr(module, "weight", None)
    return type(module) is nn.Linear and type(weight).__name__ == "Int8Tensor"


def _shared_weights(lm: nn.Module) -> set[int]:
    """Addresses of weights that another kind of module looks into: tied embeddings."""
    return {
        parameter.data_ptr()
        for module in lm.modules()
        if not _is_linear(module)
        for parameter in module.parameters(recurse=False)
    }


@torch.no_grad()
def _stored(module: Any) -> Tensor:
    """(out, in), contiguous."""
    # GPT-2's Conv1D stores the transposed weight.
    weight: Tensor = module.weight if type(module) is nn.Linear else module.weight.T
    return weight.detach().contiguous()


@torch.no_grad()
def _packed(module: Any, layout: Layout) -> _Layer:
    stored = _stored(module)
    return _Layer(module, stored, layout(stored, module.bias))


def product_or_few(
    product: Product, stored: Tensor, bias: Tensor | None, few: FewRows, most: int, x: Tensor
) -> Tensor:
    if x.numel() <= most * x.shape[-1]:
        return few(x, stored, bias)
    return product(x)


class _Scratch:
    """Memory for one layer's weights, used by all in turn: new pages cost more than the product."""

    def __init__(self) -> None:
        self._memory = torch.empty(0)

    def filled(self, whole: Tensor, dtype: torch.dtype) -> Tensor:
        """``whole`` as numbers of ``dtype``, until the next call."""
        if self._memory.numel() < whole.numel() or self._memory.dtype != dtype:
            self._memory = torch.empty(whole.numel(), dtype=dtype)
        return self._memory[: whole.numel()].view_as(whole).copy_(whole)


def _int8_product(weight: Any, bias: Tensor | None, scratch: _Scratch, x: Tensor) -> Tensor:
    rows = x.reshape(-1, x.shape[-1])
    if len(rows) <= _FEW_ROWS:
        scale = weight.scale.flatten().to(torch.bfloat16)
        out: Tensor = torch.ops.aten._weight_int8pack_mm(rows.bfloat16(), weight.qdata, scale)
        out = out.to(x.dtype)
    else:
        out = functional.linear(rows, scratch.filled(weight.qdata, x.dtype))
        out *= weight.scale.flatten()
    if bias is not None:
        out += bias
    return out.view(*x.shape[:-1], -1)
