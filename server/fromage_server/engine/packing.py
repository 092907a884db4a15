"""Weights in the order in which a CPU's matrix kernels read them.

``nn.Linear`` hands its weight over row by row, and the kernel library rearranges it at every call;
for the few rows of a decode step that costs as much as the product. oneDNN takes weights that were
rearranged once (torch's own compiler does the same when it freezes a model).

Weights in int8 are multiplied as they are where few rows meet them, and turned into the other
side's numbers for many; torchao itself always does the latter, in new memory each time.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

# Rows that the layout is chosen for; it serves one row and hundreds nearly as well.
_ROWS = 16
# Up to so many rows torch's int8 product is the faster way; it takes bfloat16 on the other side.
_FEW_ROWS = 16


def pack_linears(lm: nn.Module) -> int:
    """Rearrange the weights of all linear layers of ``lm``, which is on the CPU, and drop the
    originals that nothing else needs; for inference only, and the last thing done to a model: what
    it holds can no longer be saved. Layers in int4 bring a kernel of their own and are left alone.
    Returns how many layers it changed; 0 where the CPU or the dtype has no such kernels."""
    dtype = next(lm.parameters()).dtype
    scratch = _Scratch()
    quantized: list[Any] = [module for module in lm.modules() if _is_int8(module)]
    for module in quantized:
        module.forward = partial(_int8_product, module.weight, module.bias, scratch)
    available = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    if not available or not _has_kernels(dtype):
        return len(quantized)
    shared = _shared_weights(lm)
    layers: list[Any] = [module for module in lm.modules() if _is_linear(module)]
    found = [
        layer
        for layer in layers
        if layer.weight.dtype == dtype and type(layer.weight) is nn.Parameter
    ]
    for module in found:
        _pack(module, keep=module.weight.data_ptr() in shared)
    return len(found) + len(quantized)


def _has_kernels(dtype: torch.dtype) -> bool:
    if dtype == torch.bfloat16:
        operators: Any = torch.ops.mkldnn
        return bool(operators._is_mkldnn_bf16_supported())
    return dtype == torch.float32


def _is_linear(module: Any) -> bool:
    return type(module) is nn.Linear or type(module).__name__ == "Conv1D"


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
def _pack(module: Any, *, keep: bool) -> None:
    # GPT-2's Conv1D stores the transposed weight.
    weight: Tensor = module.weight if type(module) is nn.Linear else module.weight.T.contiguous()
    packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), _ROWS)
    module.forward = partial(_product, packed, module.bias)
    if keep and weight.dtype.itemsize < 4:
        module.forward = partial(_product_or_row, packed, weight.detach(), module.bias)
    if not keep:
        module.weight = nn.Parameter(torch.empty(0, dtype=weight.dtype), requires_grad=False)


def _product(packed: Tensor, bias: Tensor | None, x: Tensor) -> Tensor:
    out: Tensor = torch.ops.mkldnn._linear_pointwise(x, packed, bias, "none", [], "")
    return out


def _product_or_row(packed: Tensor, weight: Tensor, bias: Tensor | None, x: Tensor) -> Tensor:
    """Matrix units (AMX) have a layout that costs a single row half as much again; where the weight
    is there as it was, too, such a row takes that."""
    if x.numel() == x.shape[-1]:
        return functional.linear(x, weight, bias)
    return _product(packed, bias, x)


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
