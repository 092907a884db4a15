"""The demo tower's two sides, written out flat for training on a CPU.

The same mathematics as open_clip's CLIP in the tower's shape (attentional pooling by one query), on
the same parameters. Written out, torch.compile fuses what stands between the matrix products; and
as one query pools, its keys and values need not be made for every patch: the query is taken back
through the keys' layer, and the values' layer is applied to what was pooled.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from fromage_weights.demo.neox import Attention, linear, norm

_NEVER = -1e30


def _block(x: Tensor, block: Any, mask: Tensor, dtype: torch.dtype) -> Tensor:
    batch, length, width = x.shape
    heads = block.attn.num_heads
    inner = norm(x, block.ln_1, dtype)
    weight, bias = block.attn.in_proj_weight, block.attn.in_proj_bias
    mixed = functional.linear(inner, weight.to(dtype), bias.to(dtype))
    q, k, v = mixed.view(batch, length, 3, heads, -1).permute(2, 0, 3, 1, 4)
    out = Attention.apply(q, k, v, mask).transpose(1, 2).reshape(batch, length, width)
    x = x + linear(out, block.attn.out_proj)
    inner = functional.gelu(linear(norm(x, block.ln_2, dtype), block.mlp.c_fc))
    return x + linear(inner, block.mlp.c_proj)


def _pooled(x: Tensor, pool: Any, dtype: torch.dtype) -> Tensor:
    """(B, N, W) -> (B, D): softmax(q K^T / sqrt(d)) V for a single q, per head; K = x A^T + a and
    V = x C^T + c. A head's scores are x (A^T q) + a.q, and its result (softmax x) C^T + c."""
    heads, attn = pool.attn.num_heads, pool.attn
    of_q, of_k, of_v = attn.in_proj_bias.chunk(3)
    x = norm(x, pool.ln_k, dtype)
    query = functional.linear(norm(pool.query, pool.ln_q, torch.float32), attn.q_proj_weight, of_q)
    query = query.view(heads, 1, -1) * (query.shape[-1] // heads) ** -0.5
    asked = (query @ attn.k_proj_weight.view(heads, -1, x.shape[-1]))[:, 0]  # (H, W)
    level = (query[:, 0] * of_k.view(heads, -1)).sum(-1)
    scores = functional.linear(x, asked.to(dtype)).float() + level
    drawn = scores.softmax(1).to(dtype).mT @ x  # (B, H, W)
    values = attn.v_proj_weight.to(dtype).view(heads, -1, x.shape[-1])
    made = torch.einsum("bhw,hdw->bhd", drawn, values)
    return linear(made.flatten(1) + of_v.to(dtype), attn.out_proj)


def image_embeddings(model: Any, pixels: Tensor, dtype: torch.dtype) -> Tensor:
    """(B, 3, S, S) pixels -> (B, E), as `model.encode_image`; products are done in `dtype`."""
    visual = model.visual
    kernel = visual.conv1.weight
    patch = kernel.shape[-1]
    batch, _, side, _ = pixels.shape
    grid = side // patch
    tiles = pixels.view(batch, 3, grid, patch, grid, patch).permute(0, 2, 4, 1, 3, 5)
    tiles = tiles.reshape(batch, grid * grid, -1).to(dtype)
    x = functional.linear(tiles, kernel.flatten(1).to(dtype)).float()
    first = visual.class_embedding.expand(batch, 1, -1)
    x = torch.cat((first, x), 1) + visual.positional_embedding
    x = norm(x, visual.ln_pre, torch.float32)
    mask = torch.zeros(1, 1, x.shape[1], x.shape[1], dtype=dtype, device=x.device)
    for block in visual.transformer.resblocks:
        x = _block(x, block, mask, dtype)
    pooled = norm(_pooled(x, visual.attn_pool, dtype), visual.ln_post, dtype)
    projection: Tensor = visual.proj
    return pooled @ projection.to(dtype)


def caption_embeddings(model: Any, words: Tensor, last: Tensor, dtype: torch.dtype) -> Tensor:
    """Embedded `words` (N, T, W) and each caption's `last` place (N,) -> (N, E), as
    `model.encode_text`; products are done in `dtype`."""
    x = words + model.positional_embedding
    steps = torch.arange(words.shape[1], device=x.device)
    mask = torch.where(steps[:, None] >= steps, 0.0, _NEVER).to(dtype)[None, None]
    for block in model.transformer.resblocks:
        x = _block(x, block, mask, dtype)
    ends = x[torch.arange(len(x), device=x.device), last]
    projection: Tensor = model.text_projection
    return norm(ends, model.ln_final, dtype) @ projection.to(dtype)


def embeddings(
    model: Any, pixels: Tensor, words: Tensor, last: Tensor, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """(B, E) of the pictures and (N, E) of the captions; products are done in `dtype`."""
    images = image_embeddings(model, pixels, dtype)
    return images, caption_embeddings(model, words, last, dtype)
