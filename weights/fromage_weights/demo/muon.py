"""Muon for many small matrices: those of one shape are orthogonalised in one batch.

One after the other, as torch.optim.Muon does it, their products are too small to keep two cores
busy.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def orthogonalized(
    updates: Tensor,
    steps: int,
    coefficients: tuple[float, float, float],
    tiny: float,
    dtype: torch.dtype,
) -> Tensor:
    """(N, R, C) to roughly their nearest semi-orthogonal matrices, by `steps` Newton-Schulz steps
    in `dtype` (K. Jordan, Muon, 2024)."""
    a, b, c = coefficients
    x = updates.to(dtype)
    tall = x.shape[1] > x.shape[2]
    if tall:
        x = x.mT
    x = x / torch.stack([one.norm() for one in x])[:, None, None].clamp(min=tiny)
    for _ in range(steps):
        gram = torch.bmm(x, x.mT)
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


class BatchedMuon(torch.optim.Muon):
    """torch.optim.Muon, with Nesterov's momentum and `match_rms_adamw` (an update's root mean
    square is about 0.2 of the rate), in batches. `products`: what they are done in. A rate that is
    a tensor is never waited for."""

    products = torch.bfloat16

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        assert closure is None
        for group in self.param_groups:
            assert group["nesterov"]
            assert group["adjust_lr_fn"] == "match_rms_adamw"
            alike: dict[torch.Size, list[Tensor]] = {}
            for param in group["params"]:
                if param.grad is not None:
                    alike.setdefault(param.shape, []).append(param)
            for params in alike.values():
                self._step(params, group)

    def _step(self, params: list[Tensor], group: dict[str, Any]) -> None:
        updates = [self._with_momentum(param, group["momentum"]) for param in params]
        made = orthogonalized(
            torch.stack(updates),
            group["ns_steps"],
            group["ns_coefficients"],
            group["eps"],
            self.products,
        )
        rate: float | Tensor = group["lr"]
        adjusted = rate * 0.2 * math.sqrt(max(params[0].shape))
        kept = 1 - rate * group["weight_decay"]
        for param, update in zip(params, made, strict=True):
            param.mul_(kept)
            if isinstance(adjusted, Tensor):  # `alpha` would be a number
                param.addcmul_(update, adjusted, value=-1)
            else:
                param.add_(update, alpha=-adjusted)

    def _with_momentum(self, param: Tensor, momentum: float) -> Tensor:
        grad = param.grad
        assert grad is not None
        state = self.state[param]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(grad)
        buffer: Tensor = state["momentum_buffer"].lerp_(grad, 1 - momentum)
        return grad.lerp(buffer, momentum)
