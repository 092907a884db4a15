"""Likelihoods of text in an interleaved sequence."""

import torch
from torch import Tensor

IMAGE = -1
"""Marks a soft token's position in a layout of token ids."""


def layout(parts: list[tuple[int, ...] | None], n_visual_tokens: int) -> list[int]:
    """Token ids of the whole sequence, IMAGE at every position of a soft token."""
    ids: list[int] = []
    for part in parts:
        ids.extend([IMAGE] * n_visual_tokens if part is None else part)
    return ids


def token_log_likelihoods(
    logits: Tensor, ids: list[int], start: int = 0, *, shifted: bool = True
) -> Tensor:
    """Log-probability of every text token at position ``start`` or later, (n,) float32.

    ``logits`` (T, V), ``ids`` of length T as ``layout`` gives them. Shifted: a token is scored by
    the logits one position earlier, so the first position is never scored, and a begin token is
    where an image precedes it. Unshifted: by the logits at its own position, as the original
    VisDial evaluation does.
    """
    labels = torch.tensor(ids, device=logits.device)
    first = max(start, 1) if shifted else start
    positions = torch.arange(first, len(ids), device=logits.device)
    positions = positions[labels[first:] != IMAGE]
    sources = positions - 1 if shifted else positions
    log_probs = logits[sources].float().log_softmax(dim=-1)
    return log_probs.gather(1, labels[positions][:, None])[:, 0]
