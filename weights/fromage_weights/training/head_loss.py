"""Cross entropy through an output head of which only the [RET] row is trained.

The frozen rows need no gradient, so one pass over the vocabulary gives the loss and, from the same
logits, the gradients for the states and for the [RET] row; nothing of size (positions, vocabulary)
outlives its chunk.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

_CHUNK = 1024


class _FrozenHeadCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        states: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        ret_row: Tensor,
        ret_id: int,
        targets: Tensor,
        softcap: float | None,
    ) -> Tensor:
        wants_states, wants_row = ctx.needs_input_grad[0], ctx.needs_input_grad[3]
        d_states = torch.empty_like(states) if wants_states else None
        d_row = torch.zeros_like(ret_row)
        losses = torch.empty(len(states), dtype=torch.float32, device=states.device)
        row = ret_row.to(states.dtype)
        for start in range(0, len(states), _CHUNK):
            part = slice(start, start + _CHUNK)
            rows, wanted = states[part], targets[part]
            logits = rows @ weight.T
            if bias is not None:
                logits += bias
            logits[:, ret_id] = rows @ row
            scores = logits.float()
            if softcap is not None:
                scores = softcap * torch.tanh(scores / softcap)
            losses[part] = torch.nn.functional.cross_entropy(scores, wanted, reduction="none")
            if not (wants_states or wants_row):
                continue
            slope = scores.softmax(dim=1)
            slope[torch.arange(len(wanted), device=wanted.device), wanted] -= 1
            if softcap is not None:
                slope *= 1 - (scores / softcap).square()
            to_ret = slope[:, ret_id].clone()
            d_row += to_ret.to(d_row.dtype) @ rows.to(d_row.dtype)
            if d_states is not None:
                slope[:, ret_id] = 0
                d_states[part] = (
                    slope.to(states.dtype) @ weight + to_ret[:, None].to(row.dtype) * row
                )
        ctx.save_for_backward(d_states, d_row)
        ctx.rows = len(states)
        return losses.sum()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        d_states, d_row = ctx.saved_tensors
        d_states = None if d_states is None else d_states * grad.to(d_states.dtype)
        return d_states, None, None, d_row * grad.to(d_row.dtype), None, None, None


def frozen_head_cross_entropy(
    states: Tensor,
    weight: Tensor,
    ret_row: Tensor,
    ret_id: int,
    targets: Tensor,
    *,
    bias: Tensor | None = None,
    softcap: float | None = None,
) -> Tensor:
    """Sum over N positions of -log p(target), a float32 scalar.

    ``states`` (N, H), ``weight`` (V, H) frozen, its row ``ret_id`` replaced by ``ret_row`` (H,);
    ``targets`` (N,) ids. Gradients reach ``states`` and ``ret_row``. ``softcap``: Gemma's
    cap * tanh(logits / cap).
    """
    loss: Tensor = _FrozenHeadCrossEntropy.apply(
        states, weight, bias, ret_row, ret_id, targets, softcap
    )
    return loss
