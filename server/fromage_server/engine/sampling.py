"""From logits to tokens, one batch at a time, every row with its own parameters."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fromage_server.engine.events import TokenLogprob
from fromage_server.engine.request import SamplingParams


@dataclass(frozen=True)
class SamplingRow:
    """``forbidden``: ids impossible at this step. ``uniform``: this step's draw from [0, 1)."""

    params: SamplingParams
    forbidden: tuple[int, ...]
    uniform: float


@dataclass(frozen=True)
class Sampled:
    token_id: int
    logprob: TokenLogprob | None


def sample(logits: Tensor, rows: Sequence[SamplingRow], ret_token_id: int) -> list[Sampled | None]:
    """(n, V) float32 logits, changed in place -> a token per row; None where nothing can be
    sampled because the logits are not finite or every token is forbidden.

    The order: [RET] scaled, forbidden ids masked, temperature, top_k, top_p.
    """
    _scale_and_mask(logits, rows, ret_token_id)
    usable = logits.amax(dim=-1).isfinite()
    tokens = logits.argmax(dim=-1)
    warm = [i for i, row in enumerate(rows) if row.params.temperature > 0]
    if warm:
        filtered = _filter(logits[warm], [rows[i].params for i in warm])
        logits[warm] = filtered
        tokens[warm] = _draw(filtered, [rows[i].uniform for i in warm])
    logprobs = _logprobs(logits, tokens, rows)
    # One copy from the device for all rows; -1 where nothing was possible.
    found = tokens.masked_fill(~usable, -1).tolist()
    return [
        Sampled(token, logprob) if token >= 0 else None
        for token, logprob in zip(found, logprobs, strict=True)
    ]


def _scale_and_mask(logits: Tensor, rows: Sequence[SamplingRow], ret_token_id: int) -> None:
    factors = [row.params.ret_scale_factor for row in rows]
    if any(factor != 1 for factor in factors):
        scale = torch.tensor(factors, dtype=logits.dtype)
        logits[:, ret_token_id] *= scale.to(logits.device, non_blocking=True)
    places = [(i, token) for i, row in enumerate(rows) for token in row.forbidden]
    if places:
        row_index, token_index = torch.tensor(places, device=logits.device).unbind(dim=1)
        logits[row_index, token_index] = -torch.inf


def _filter(logits: Tensor, params: Sequence[SamplingParams]) -> Tensor:
    """(n, V) logits over temperature; what top_k and top_p leave out is -inf."""

    def column(values: list[float]) -> Tensor:
        return torch.tensor(values, dtype=logits.dtype, device=logits.device)[:, None]

    # Relative to the largest, and not by zero: a tiny temperature is greedy, not NaN.
    logits = logits - logits.amax(dim=-1, keepdim=True)
    logits = logits / column([max(p.temperature, 1e-30) for p in params])
    if all(p.top_k == 0 and p.top_p == 1 for p in params):
        return logits
    ordered, order = logits.sort(dim=-1, descending=True, stable=True)
    rank = torch.arange(logits.shape[-1], device=logits.device)
    most = column([min(p.top_k or len(rank), len(rank)) for p in params])
    ordered = ordered.masked_fill(rank >= most, -torch.inf)
    probabilities = ordered.softmax(dim=-1)
    before = probabilities.cumsum(dim=-1) - probabilities
    # The likeliest token always stays; at top_p 1 rounding must not drop any.
    limit = column([p.top_p if p.top_p < 1 else torch.inf for p in params])
    ordered = ordered.masked_fill((before >= limit) & (rank > 0), -torch.inf)
    return torch.empty_like(logits).scatter(-1, order, ordered)


def _draw(logits: Tensor, uniforms: list[float]) -> Tensor:
    """(n,) ids by the inverse of the cumulative distribution: a seed's reply then depends on the
    batch only where float noise moves a border across the drawn number."""
    cumulative = logits.double().softmax(dim=-1).cumsum(dim=-1)
    drawn = torch.tensor(uniforms, dtype=torch.float64, device=logits.device)[:, None]
    tokens = torch.searchsorted(cumulative, drawn * cumulative[:, -1:], right=True)
    return tokens[:, 0].clamp(max=logits.shape[-1] - 1)


def _logprobs(
    logits: Tensor, tokens: Tensor, rows: Sequence[SamplingRow]
) -> list[TokenLogprob | None]:
    found: list[TokenLogprob | None] = [None] * len(rows)
    wanted = [i for i, row in enumerate(rows) if row.params.logprobs is not None]
    if not wanted:
        return found
    logprobs = logits[wanted].log_softmax(dim=-1)
    count = min(max(rows[i].params.logprobs or 0 for i in wanted), logits.shape[-1])
    values, ids = logprobs.topk(count, dim=-1)
    chosen = tokens[wanted]
    own = logprobs.gather(-1, chosen[:, None])[:, 0]
    table = zip(wanted, chosen.tolist(), own.tolist(), values.tolist(), ids.tolist(), strict=True)
    for i, token, logprob, top_values, top_ids in table:
        limit = rows[i].params.logprobs or 0
        top = zip(top_ids[:limit], top_values[:limit], strict=True)
        possible = tuple((t, v) for t, v in top if v > -torch.inf)
        found[i] = TokenLogprob(token, logprob, possible)
    return found
