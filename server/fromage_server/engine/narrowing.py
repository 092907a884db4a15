"""What top_k and top_p leave of a distribution."""

from collections.abc import Sequence

import torch
from torch import Tensor

from fromage_server.engine.landing import upload
from fromage_server.engine.request import SamplingParams

# On a CPU, putting sixteen large vocabularies in order takes as long as a small model's pass; these
# are nearly always enough.
_LIKELIEST = 512


def narrowed(logits: Tensor, params: Sequence[SamplingParams]) -> Tensor:
    """(n, V) logits over temperature, each row's largest 0 -> the same, -inf what is left out.

    Of equal logits that of the smaller id is kept first. Nothing about a row depends on others.
    """
    if logits.device.type != "cpu":  # looking at numbers would make the host wait there
        return _in_order(logits, params)
    found, known = _of_the_likeliest(logits, params)
    rest = (~known).nonzero()[:, 0].tolist()
    if rest:
        found[rest] = _in_order(logits[rest], [params[i] for i in rest])
    return found


def _of_the_likeliest(logits: Tensor, params: Sequence[SamplingParams]) -> tuple[Tensor, Tensor]:
    """(n, V) and (n,): whether these were enough for a row, and in no doubt about equals."""
    count = logits.shape[-1]
    values = logits.topk(min(_LIKELIEST, count)).values
    most, limit = _limits(params, logits)
    behind = torch.arange(values.shape[-1]) >= most
    weights = values.exp().masked_fill(behind, 0)
    few = most <= values.shape[-1]
    # A sum of so many could be divided among threads in another way where the row is alone.
    whole = logits.softmax(-1).amax(-1, True).reciprocal()
    total = torch.where(few, weights.sum(-1, True), whole)
    before = (weights.cumsum(-1) - weights) / total
    kept = ((before < limit) & ~behind).sum(-1, True).clamp(min=1)
    enough = few | ((most == count) & (kept < values.shape[-1]))
    left = logits >= values.gather(-1, kept - 1)
    known = enough & (left.sum(-1, True) == kept)
    return logits.masked_fill(~left, -torch.inf), known[:, 0]


def _in_order(logits: Tensor, params: Sequence[SamplingParams]) -> Tensor:
    ordered, order = logits.sort(dim=-1, descending=True, stable=True)
    rank = torch.arange(logits.shape[-1], device=logits.device)
    most, limit = _limits(params, logits)
    ordered = ordered.masked_fill(rank >= most, -torch.inf)
    probabilities = ordered.softmax(dim=-1)
    before = probabilities.cumsum(dim=-1) - probabilities
    # The likeliest token always stays.
    ordered = ordered.masked_fill((before >= limit) & (rank > 0), -torch.inf)
    return torch.empty_like(logits).scatter(-1, order, ordered)


def _limits(params: Sequence[SamplingParams], logits: Tensor) -> tuple[Tensor, Tensor]:
    """(n, 1) each: how many tokens may stay, and which share may stand before the last one."""
    count, device = logits.shape[-1], logits.device
    most = upload([min(p.top_k or count, count) for p in params], torch.long, device)
    # At top_p 1 rounding must not drop any.
    shares = [p.top_p if p.top_p < 1 else torch.inf for p in params]
    return most[:, None], upload(shares, logits.dtype, device)[:, None]
