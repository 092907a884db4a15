"""Weights in the order in which a CPU's matrix kernels read them.

``nn.Linear`` hands its weight over row by row, and the kernel library rearranges it at every call;
for the few rows of a decode step that costs as much as the product. oneDNN takes weights that were
rearranged once (torch's own compiler does the same when it freezes a model).
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

# Rows that the layout is chosen for; it serves one row and hundreds nearly as well.
_ROWS = 16


def pack_linears(lm: nn.Module) -> int:
    """Rearrange the weights of all linear layers of ``lm``, which is on the CPU, and drop the
    originals that nothing else needs; for inference only, and the last thing done to a model: what
    it holds can no longer be saved. Returns how many layers; 0 where the CPU or the dtype has no
    such kernels."""
    dtype = next(lm.parameters()).dtype
    available = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    if not available or not _has_kernels(dtype):
        return 0
    shared = _shared_weights(lm)
    layers: list[Any] = [module for module in lm.modules() if _is_linear(module)]
    found = [layer for layer in layers if layer.weight.dtype == dtype]
    for module in found:
        _pack(module, keep=module.weight.data_ptr() in shared)
    return len(found)


def _has_kernels(dtype: torch.dtype) -> bool:
    if dtype == torch.bfloat16:
        operators: Any = torch.ops.mkldnn
        return bool(operators._is_mkldnn_bf16_supported())
    return dtype == torch.float32


def _is_linear(module: Any) -> bool:
    return type(module) is nn.Linear or type(module).__name__ == "Conv1D"


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
    if not keep:
        module.weight = nn.Parameter(torch.empty(0, dtype=weight.dtype), requires_grad=False)


def _product(packed: Tensor, bias: Tensor | None, x: Tensor) -> Tensor:
    out: Tensor = torch.ops.mkldnn._linear_pointwise(x, packed, bias, "none", [], "")
    return out
