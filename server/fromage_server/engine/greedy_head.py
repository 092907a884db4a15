"""The likeliest next token, without all logits: calls ``greedy_head.cpp``.

Where a vocabulary is large beside the layers, a decode step of a few rows spends much of its time
on reading the head's weights, and of its fifty thousand logits greedy decoding wants one. Here the
head is read in int8, a quarter of float32, which tells every logit up to an error that is known
beforehand (by Cauchy and Schwarz: the norm of what rounding took from a row of weights, times the
norm of the hidden state; that is rounded to 16 bits, which is counted, too). Only the few tokens
that may still be the likeliest one are computed from the weights themselves. The token is the one
that all logits tell, to the last equal where those are computed by ``few_rows``.

Without a C++ compiler there is no such head.
"""

from __future__ import annotations

import ctypes
import math
import time
from collections.abc import Callable, Sequence
from ctypes import POINTER, c_float, c_int, c_int32, c_int64, c_void_p
from functools import cache
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from fromage_server.engine.compiled import function_of
from fromage_server.engine.request import SamplingParams
from fromage_server.engine.sampling import SamplingRow

_ROUNDING = {torch.float32: 2.0**-20, torch.bfloat16: 2.0**-6}
_LEVELS = 127
_BEST = 2
# Of weights and biases that are not zero: squares and products of them stay in float32's range.
_SMALLEST, _LARGEST = 1e-12, 1e12
_GROUP = 32  # codes that are read at once
_AT_ONCE = 1024  # rows that are rounded
_WORTH_IT = 4 << 20  # weights
# With how many rows it is tried, how often, and by how much it has to win.
_TRIED, _TRIALS, _CLEARLY = (1, 2, 4, 8, 16), 5, 0.97


class _Head(ctypes.Structure):
    _fields_ = (
        *((name, c_void_p) for name in ("weight", "codes", "scale", "error", "norm", "bias")),
        *((name, c_int64) for name in ("outputs", "width", "padded")),
        ("rounding", c_float),
        ("kind", c_int32),
    )


class _Asked(ctypes.Structure):
    _fields_ = (
        ("x", c_void_p),
        ("rows", c_int64),
        *((name, c_void_p) for name in ("forbidden", "starts", "factors")),
        ("ret", c_int64),
        ("tokens", c_void_p),
    )


class GreedyHead:
    """Of ``weight`` (V, H) and ``bias`` (V,), which are on the CPU, contiguous, and float32 or
    bfloat16; holds ``bytes_beside`` more. ``most``: up to so many rows it is the faster way."""

    def __init__(self, weight: Tensor, bias: Tensor | None, *, kind: int = _BEST) -> None:
        """``kind`` of processor that it is for: 2 for what this one does best, 1 for AVX2, 0 for
        neither. Raises ValueError where a weight is not finite, or so large or small that sums
        could be, or where there is no kernel."""
        if not is_possible(weight.dtype):
            raise ValueError(f"no greedy head for {weight.dtype} on this machine")
        if bias is not None and not float(bias.abs().amax()) < _LARGEST:
            raise ValueError("the head's bias is out of range")
        self.most = 0
        self._weight, self._bias = weight.detach(), bias
        self._codes, self._scale, self._error, self._norm = _in_int8(self._weight)
        outputs, width = weight.shape
        self._head = _Head(
            self._weight.data_ptr(),
            self._codes.data_ptr(),
            self._scale.data_ptr(),
            self._error.data_ptr(),
            self._norm.data_ptr(),
            None if bias is None else bias.data_ptr(),
            outputs,
            width,
            self._codes.shape[1],
            _ROUNDING[weight.dtype],
            kind,
        )

    def try_out(self, head: Callable[[Tensor], Tensor]) -> None:
        """Find ``most``; ``head`` computes all logits."""
        rows = [SamplingRow(SamplingParams(1), (), 0.0)] * max(_TRIED)
        random = torch.randn(max(_TRIED), self._weight.shape[1]).to(self._weight.dtype)
        for count in _TRIED:
            states = random[:count]
            all_logits, greedy = math.inf, math.inf
            for _ in range(_TRIALS):
                start = time.perf_counter()
                head(states).float().argmax(dim=-1)
                middle = time.perf_counter()
                self.tokens(states, rows[:count], 0)
                all_logits = min(all_logits, middle - start)
                greedy = min(greedy, time.perf_counter() - middle)
            if greedy >= _CLEARLY * all_logits:
                break
            self.most = count

    def takes(self, rows: Sequence[SamplingRow]) -> bool:
        """Whether the tokens of such rows are found here: few, and all of them greedy."""
        return len(rows) <= self.most and all(
            row.params.temperature <= 0 and row.params.logprobs is None and row.one_ret is None
            for row in rows
        )

    def tokens(self, states: Tensor, rows: Sequence[SamplingRow], ret_token_id: int) -> Tensor:
        """(n, H) what the head reads -> (n,) the likeliest token of each row once [RET] is scaled
        and what is forbidden is left out, the first one of equals; -1 where a logit that matters is
        not finite or every token is forbidden."""
        assert states.dtype == self._weight.dtype
        assert states.shape == (len(rows), self._weight.shape[1])
        states = states.contiguous()
        forbidden = torch.tensor([t for row in rows for t in row.forbidden], dtype=torch.long)
        starts = torch.tensor([0, *accumulate(len(row.forbidden) for row in rows)])
        factors = torch.tensor([row.params.ret_scale_factor for row in rows], dtype=torch.float32)
        found = torch.empty(len(rows), dtype=torch.long)
        asked = _Asked(
            states.data_ptr(),
            len(rows),
            forbidden.data_ptr(),
            starts.data_ptr(),
            factors.data_ptr(),
            ret_token_id,
            found.data_ptr(),
        )
        call = _call()
        assert call is not None
        is_bfloat16 = self._weight.dtype == torch.bfloat16
        call(ctypes.byref(self._head), ctypes.byref(asked), is_bfloat16)
        return found


def bytes_beside(outputs: int, width: int) -> int:
    """What a greedy head for (``outputs``, ``width``) weights holds beside them; 0 where they are
    so few that caches hold them, and there is none."""
    if outputs * width < _WORTH_IT:
        return 0
    return outputs * (_padded(width) + 3 * 4)


def _padded(width: int) -> int:
    return -(-width // _GROUP) * _GROUP


def is_possible(dtype: torch.dtype) -> bool:
    """Whether the kernel takes such numbers and can be built."""
    return dtype in _ROUNDING and _call() is not None


def _in_int8(weight: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(V, H) -> int8 codes (V, P), zeros behind the row, and of each row (V,): the scale; by how
    much a logit from them may be wrong for a state of norm one, sums in float32 included, here and
    in ``few_rows``; and the norm of what they stand for."""
    width = weight.shape[1]
    codes = torch.zeros(len(weight), _padded(width), dtype=torch.int8)
    scale, error, norm = torch.empty(3, len(weight))
    # Of `width` numbers in any order, twice, and of what is lost itself.
    of_sums = (2 * width + 8) * torch.finfo(torch.float32).eps
    for first in range(0, len(weight), _AT_ONCE):
        part = slice(first, first + _AT_ONCE)
        exact = weight[part].float()
        largest = exact.abs().amax(dim=1, keepdim=True)
        if not bool(((largest == 0) | ((largest > _SMALLEST) & (largest < _LARGEST))).all()):
            raise ValueError("the head's weights are not finite, or out of range")
        step = (largest / _LEVELS).clamp(min=1e-30)
        rounded = (exact / step).round_()
        codes[part, :width], scale[part] = rounded.to(torch.int8), step[:, 0]
        lost = (exact - rounded.mul_(step)).norm(dim=1)
        norm[part] = rounded.norm(dim=1) * (1 + of_sums)
        error[part] = lost * (1 + of_sums) + of_sums * norm[part]
    return codes, scale, error, norm


@cache
def _call() -> Any:
    call = function_of("greedy_head", "fromage_greedy", "greedy decoding computes all logits")
    if call is not None:
        call.argtypes, call.restype = (POINTER(_Head), POINTER(_Asked), c_int), None
    return call
