"""From logits to tokens, one batch at a time, every row with its own parameters."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fromage_server.engine.events import TokenLogprob
from fromage_server.engine.landing import Landing, upload
from fromage_server.engine.narrowing import narrowed
from fromage_server.engine.request import SamplingParams


@dataclass(frozen=True)
class SamplingRow:
    """``forbidden``: ids impossible at this step. ``uniform``: this step's draw from [0, 1).
    ``one_ret``: a row of the step before's samples; if that is a [RET], none may follow."""

    params: SamplingParams
    forbidden: tuple[int, ...]
    uniform: float
    one_ret: int | None = None


@dataclass(frozen=True)
class Sampled:
    token_id: int
    logprob: TokenLogprob | None


class Samples:
    """A step's tokens, while they are only on the device: ``tokens`` (n,), -1 where nothing can be
    sampled because the logits are not finite or every token is forbidden."""

    def __init__(self, logits: Tensor | None, tokens: Tensor, rows: Sequence[SamplingRow]) -> None:
        """``logits`` (n, V): of the distributions that ``tokens`` were drawn from; None where no
        row wants to know of them."""
        self.tokens = tokens
        self._limits = [row.params.logprobs for row in rows]
        known: tuple[Tensor, ...] = ()
        if logits is not None:
            known = _logprobs(logits, tokens, self._limits)
        else:
            assert self._limits == [None] * len(rows)
        self._landing = Landing(tokens, *known)

    def land(self) -> list[Sampled | None]:
        """One per row; waits for the one copy from the device."""
        tokens, *table = self._landing.wait()
        logprobs = iter(zip(*(column.tolist() for column in table), strict=True))
        return [
            self._sampled(token, limit, None if limit is None else next(logprobs))
            for token, limit in zip(tokens.tolist(), self._limits, strict=True)
        ]

    @staticmethod
    def _sampled(
        token: int, limit: int | None, row: tuple[float, list[float], list[int]] | None
    ) -> Sampled | None:
        if token < 0:
            return None
        if row is None:
            return Sampled(token, None)
        own, values, ids = row
        top = zip(ids[:limit], values[:limit], strict=True)
        possible = tuple((t, v) for t, v in top if v > -torch.inf)
        return Sampled(token, TokenLogprob(token, own, possible))


def sample(
    logits: Tensor, rows: Sequence[SamplingRow], ret_token_id: int, before: Tensor | None = None
) -> Samples:
    """(n, V) float32 logits, changed in place -> a token per row. ``before``: the tokens of the
    step before, for rows that look at one.

    The order: [RET] scaled, forbidden ids masked, temperature, top_k, top_p.
    """
    _scale_and_mask(logits, rows, ret_token_id)
    if before is not None:
        _mask_second_ret(logits, rows, ret_token_id, before)
    usable = logits.amax(dim=-1).isfinite()
    tokens = logits.argmax(dim=-1)
    warm = [i for i, row in enumerate(rows) if row.params.temperature > 0]
    if warm:
        index = upload(warm, torch.long, logits.device)
        filtered = _filter(logits[index], [rows[i].params for i in warm])
        logits[index] = filtered
        tokens[index] = _draw(filtered, [rows[i].uniform for i in warm])
    return Samples(logits, tokens.masked_fill(~usable, -1), rows)


def _scale_and_mask(logits: Tensor, rows: Sequence[SamplingRow], ret_token_id: int) -> None:
    factors = [row.params.ret_scale_factor for row in rows]
    if any(factor != 1 for factor in factors):
        logits[:, ret_token_id] *= upload(factors, logits.dtype, logits.device)
    places = [i * logits.shape[1] + t for i, row in enumerate(rows) for t in row.forbidden]
    if places:
        logits.view(-1).index_fill_(0, upload(places, torch.long, logits.device), -torch.inf)


def _mask_second_ret(
    logits: Tensor, rows: Sequence[SamplingRow], ret_token_id: int, before: Tensor
) -> None:
    looking = [i for i, row in enumerate(rows) if row.one_ret is not None]
    if looking:
        index = upload(looking, torch.long, logits.device)
        place = upload([rows[i].one_ret or 0 for i in looking], torch.long, logits.device)
        of_ret = logits[index, ret_token_id]
        was_ret = before[place] == ret_token_id
        logits[index, ret_token_id] = of_ret.masked_fill(was_ret, -torch.inf)


def _filter(logits: Tensor, params: Sequence[SamplingParams]) -> Tensor:
    """(n, V) logits over temperature; what top_k and top_p leave out is -inf."""
    # Relative to the largest, and not by zero: a tiny temperature is greedy, not NaN.
    logits = logits - logits.amax(dim=-1, keepdim=True)
    temperatures = upload([p.temperature for p in params], logits.dtype, logits.device)
    logits /= temperatures.clamp(min=1e-30)[:, None]
    some = [i for i, p in enumerate(params) if p.top_k or p.top_p < 1]
    if some:
        index = upload(some, torch.long, logits.device)
        logits[index] = narrowed(logits[index], [params[i] for i in some])
    return logits


def _draw(logits: Tensor, uniforms: list[float]) -> Tensor:
    """(n,) ids by the inverse of the cumulative distribution: a seed's reply then depends on the
    batch only where float noise moves a border across the drawn number."""
    cumulative = logits.double().softmax(dim=-1).cumsum(dim=-1)
    drawn = upload(uniforms, torch.float64, logits.device)[:, None]
    tokens = torch.searchsorted(cumulative, drawn * cumulative[:, -1:], right=True)
    return tokens[:, 0].clamp(max=logits.shape[-1] - 1)


def _logprobs(logits: Tensor, tokens: Tensor, limits: Sequence[int | None]) -> tuple[Tensor, ...]:
    """Of the rows with a limit: the token's own (m,), the likeliest (m, most) and their ids."""
    wanted = [i for i, limit in enumerate(limits) if limit is not None]
    if not wanted:
        return ()
    index = upload(wanted, torch.long, logits.device)
    logprobs = logits[index].log_softmax(dim=-1)
    count = min(max(limits[i] or 0 for i in wanted), logits.shape[-1])
    values, ids = logprobs.topk(count, dim=-1)
    own = logprobs.gather(-1, tokens[index].clamp(min=0)[:, None])[:, 0]
    return own, values, ids
