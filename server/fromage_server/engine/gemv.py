"""A GPU's products of one row with a weight, and the norm before them, as Triton kernels.

One stream's decode step reads every weight once and does little else, and the library's products
of a single row leave a fifth of the memory's bandwidth unused, more for small weights. Where the
device can (programmatic dependent launch, compute capability 9), a kernel starts while the one
before it ends: its first weights are on their way when its input is ready. Each waits for the one
before before it reads or writes anything else, so all that went before is done by then.
"""

from __future__ import annotations

from functools import cache

import torch
import triton
import triton.language as tl
from torch import Tensor

try:
    from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait
except ImportError:  # Triton before 3.3
    gdc_launch_dependents = gdc_wait = None

_ROWS = 4  # of the weight in a program
_WIDEST = 4096  # of its columns at once


@triton.jit  # type: ignore[untyped-decorator]
def _product(  # type: ignore[no-untyped-def]
    x, weight, bias, added, out, count,
    K: tl.constexpr, ROWS: tl.constexpr, WIDE: tl.constexpr, EVEN: tl.constexpr,
    BIAS: tl.constexpr, RELU: tl.constexpr, ADDED: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    if EARLY:
        gdc_launch_dependents()
    row, column = tl.program_id(0) * ROWS + tl.arange(0, ROWS), tl.arange(0, WIDE)
    is_row = row < count
    at = weight + row.to(tl.int64)[:, None] * K + column[None, :]
    # Weights are read once a step: others may keep their places in the cache.
    if EVEN:
        w = tl.load(at, eviction_policy="evict_first")
    else:
        mask = is_row[:, None] & (column < K)[None, :]
        w = tl.load(at, mask=mask, other=0.0, eviction_policy="evict_first")
    if EARLY:
        gdc_wait()
    v = tl.load(x + column, mask=column < K, other=0.0).to(tl.float32)
    # Eight numbers that one thread has loaded at once are added up first: fewer registers.
    sums = tl.sum(tl.reshape(w.to(tl.float32) * v[None, :], [ROWS, WIDE // 8, 8]), 2)
    for k in range(WIDE, K, WIDE):
        is_column = k + column < K
        if EVEN:
            w = tl.load(at + k, eviction_policy="evict_first")
        else:
            mask = is_row[:, None] & is_column[None, :]
            w = tl.load(at + k, mask=mask, other=0.0, eviction_policy="evict_first")
        v = tl.load(x + k + column, mask=is_column, other=0.0).to(tl.float32)
        sums += tl.sum(tl.reshape(w.to(tl.float32) * v[None, :], [ROWS, WIDE // 8, 8]), 2)
    result = tl.sum(sums, 1)
    if BIAS:
        result += tl.load(bias + row, mask=is_row, other=0.0).to(tl.float32)
    if RELU:
        result = tl.maximum(result, 0.0)
    if ADDED:  # to what is stored otherwise
        result = result.to(out.dtype.element_ty).to(tl.float32)
        result += tl.load(added + row, mask=is_row, other=0.0).to(tl.float32)
    tl.store(out + row, result.to(out.dtype.element_ty), mask=is_row)


@triton.jit  # type: ignore[untyped-decorator]
def _norm(  # type: ignore[no-untyped-def]
    x, weight, bias, out, eps,
    K: tl.constexpr, WIDE: tl.constexpr, CENTRED: tl.constexpr, ROUNDED: tl.constexpr,
    EARLY: tl.constexpr,
):  # fmt: skip
    if EARLY:
        gdc_launch_dependents()
    column = tl.arange(0, WIDE)
    is_column = column < K
    scale = tl.load(weight + column, mask=is_column, other=0.0).to(tl.float32)
    if CENTRED:
        shift = tl.load(bias + column, mask=is_column, other=0.0).to(tl.float32)
    if EARLY:
        gdc_wait()
    v = tl.load(x + column, mask=is_column, other=0.0).to(tl.float32)
    if CENTRED:
        v = tl.where(is_column, v - tl.sum(v, 0) / K, 0.0)
    v = v * (1.0 / tl.sqrt(tl.sum(v * v, 0) / K + eps))
    if ROUNDED:
        v = v.to(out.dtype.element_ty).to(tl.float32)
    v = v * scale
    if CENTRED:
        v += shift
    tl.store(out + column, v.to(out.dtype.element_ty), mask=is_column)


def takes(weight: Tensor) -> bool:
    """Whether ``product`` can use a weight (N, K)."""
    return weight.ndim == 2 and weight.is_contiguous() and weight.dtype.is_floating_point


def product(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    added: Tensor | None = None,
    *,
    relu: bool = False,
) -> Tensor:
    """K numbers ``x``, a weight (N, K) and ``bias`` (N,): (1, N), through ReLU where that is asked
    for, plus the N numbers ``added``. Sums are float32."""
    rows, width = weight.shape
    wide = max(16, min(_WIDEST, triton.next_power_of_2(width)))
    out = torch.empty(1, rows, dtype=x.dtype, device=x.device)
    early = _starts_early(x.device)
    _product[(triton.cdiv(rows, _ROWS),)](
        x, weight, out if bias is None else bias, out if added is None else added, out, rows,
        K=width, ROWS=_ROWS, WIDE=wide, EVEN=width % wide == 0 and rows % _ROWS == 0,
        BIAS=bias is not None, RELU=relu, ADDED=added is not None, EARLY=early,
        num_warps=max(1, wide // 512), **({"launch_pdl": True} if early else {}),
    )  # fmt: skip
    return out


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """Of the K numbers ``x``, of its shape."""
    return _normed(x, weight, bias, eps, x.dtype, rounded=False)


def rms_norm(x: Tensor, weight: Tensor, eps: float, dtype: torch.dtype, *, rounded: bool) -> Tensor:
    """The K numbers ``x`` over the root of their mean square, times ``weight`` (K,), in ``dtype``;
    ``rounded`` to that before they are multiplied, too."""
    return _normed(x, weight, None, eps, dtype, rounded=rounded)


def _normed(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    eps: float,
    dtype: torch.dtype,
    *,
    rounded: bool,
) -> Tensor:
    out, early = torch.empty_like(x, dtype=dtype), _starts_early(x.device)
    _norm[(1,)](
        x, weight, out if bias is None else bias, out, eps,
        K=x.numel(), WIDE=triton.next_power_of_2(x.numel()), CENTRED=bias is not None,
        ROUNDED=rounded, EARLY=early, num_warps=8, **({"launch_pdl": True} if early else {}),
    )  # fmt: skip
    return out


@cache
def _starts_early(device: torch.device) -> bool:
    if device.type != "cuda" or gdc_wait is None:
        return False
    return torch.cuda.get_device_capability(device) >= (9, 0)
