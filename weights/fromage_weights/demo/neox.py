"""The demo language model, written out flat for training on a CPU.

The same mathematics as transformers' GPTNeoXForCausalLM (sequential residuals), on the same
parameters. Written out, torch.compile fuses what stands between the matrix products, and attention
is plain products, where the CPU's flash kernel is several times slower backwards. Without a C++
compiler the same functions run as they stand.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

if TYPE_CHECKING:
    from transformers import GPTNeoXForCausalLM

_NEVER = -1e30


class Asked(NamedTuple):
    """Which states are asked for their next token, (K,) each: where they stand among the B*T, what
    follows, and how much it counts. A count of 0 fills up."""

    places: Tensor
    targets: Tensor
    counts: Tensor


class Attention(torch.autograd.Function):
    """softmax(q k^T / sqrt(d) + mask) v, for q, k, v (B, H, T, d) and a mask (B, 1, T, T)."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
        scores = (q @ k.mT).float() * q.shape[-1] ** -0.5 + mask
        log_sum = scores.logsumexp(-1)
        out = torch.exp(scores - log_sum[..., None]).to(q.dtype) @ v
        ctx.save_for_backward(q, k, v, mask, out, log_sum)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        q, k, v, mask, out, log_sum = ctx.saved_tensors
        (grad,) = grads
        scale = q.shape[-1] ** -0.5
        scores = (q @ k.mT).float() * scale + mask
        shares = torch.exp(scores - log_sum[..., None])
        common = (grad.float() * out.float()).sum(-1, keepdim=True)
        inner = (shares * ((grad @ v.mT).float() - common) * scale).to(q.dtype)
        return inner @ k, inner.mT @ q, shares.to(q.dtype).mT @ grad, None


def document_mask(positions: Tensor, dtype: torch.dtype) -> Tensor:
    """(B, 1, T, T) to add to scores: 0 for a word of the same document that is not later."""
    document = (positions == 0).cumsum(1)
    steps = torch.arange(positions.shape[1], device=positions.device)
    seen = (document[:, :, None] == document[:, None]) & (steps[:, None] >= steps)
    return torch.where(seen, 0.0, _NEVER).to(dtype)[:, None]


def linear(x: Tensor, layer: nn.Linear) -> Tensor:
    return functional.linear(x, layer.weight.to(x.dtype), layer.bias.to(x.dtype))


def norm(x: Tensor, layer: nn.LayerNorm, dtype: torch.dtype) -> Tensor:
    shape, weight, bias = layer.normalized_shape, layer.weight, layer.bias
    return functional.layer_norm(x.to(weight.dtype), shape, weight, bias, layer.eps).to(dtype)


def _rotated(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Rotary embedding of the first 2 R dimensions; `cosine` and `sine` are (B, 1, T, R)."""
    half = cosine.shape[-1]
    a, b, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
    return torch.cat((a * cosine - b * sine, b * cosine + a * sine, rest), -1)


def _attended(x: Tensor, layer: Any, turn: tuple[Tensor, Tensor], mask: Tensor) -> Tensor:
    batch, length, width = x.shape
    heads = layer.config.num_attention_heads
    mixed = linear(x, layer.query_key_value).view(batch, length, heads, -1).transpose(1, 2)
    q, k, v = mixed.chunk(3, -1)
    out = Attention.apply(_rotated(q, *turn), _rotated(k, *turn), v, mask)
    return linear(out.transpose(1, 2).reshape(batch, length, width), layer.dense)


def _streams(
    lm: GPTNeoXForCausalLM, embeds: Tensor, positions: Tensor, dtype: torch.dtype
) -> Tensor:
    """(B, T, D) what the last layer leaves, before the last norm."""
    mask = document_mask(positions, dtype)
    angles = positions[:, None, :, None].float() * lm.gpt_neox.rotary_emb.inv_freq
    turn = (angles.cos().to(dtype), angles.sin().to(dtype))
    x = embeds
    layers: Any = lm.gpt_neox.layers
    for layer in layers:
        x = x + _attended(norm(x, layer.input_layernorm, dtype), layer.attention, turn, mask)
        inner = linear(norm(x, layer.post_attention_layernorm, dtype), layer.mlp.dense_h_to_4h)
        x = x + linear(functional.gelu(inner), layer.mlp.dense_4h_to_h)
    return x


def states(lm: GPTNeoXForCausalLM, embeds: Tensor, positions: Tensor, dtype: torch.dtype) -> Tensor:
    """(B, T, D) what the head reads, in `dtype`; the arguments are as those of `losses`."""
    return norm(_streams(lm, embeds, positions, dtype), lm.gpt_neox.final_layer_norm, dtype)


def losses(
    lm: GPTNeoXForCausalLM, embeds: Tensor, positions: Tensor, asked: Asked, dtype: torch.dtype
) -> Tensor:
    """(K,) the cross-entropy of every target, float32.

    `embeds` (B, T, D) are float32, as the sums of the layers are; `dtype` is what matrix products
    are done in. `positions` (B, T) count from each document's start, and no document sees another.
    """
    x = _streams(lm, embeds, positions, dtype).flatten(0, 1)[asked.places]
    logits = functional.linear(
        norm(x, lm.gpt_neox.final_layer_norm, dtype), lm.lm_head.weight.to(dtype)
    )
    return functional.cross_entropy(logits.float(), asked.targets, reduction="none")


def mean_loss(
    lm: GPTNeoXForCausalLM, embeds: Tensor, positions: Tensor, asked: Asked, dtype: torch.dtype
) -> Tensor:
    """The mean of `losses` by counts."""
    found = losses(lm, embeds, positions, asked, dtype)
    return (found * asked.counts).sum() / asked.counts.sum()
