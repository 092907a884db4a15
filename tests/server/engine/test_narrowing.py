"""What top_k and top_p leave, against putting everything in order by hand."""

import math
from itertools import accumulate

import pytest
import torch
from torch import Tensor

from fromage_server.engine import SamplingParams
from fromage_server.engine.narrowing import _LIKELIEST, narrowed

VOCABULARY = 3000
_NEAR = 1e-5


def left(row: Tensor, top_k: int, top_p: float) -> list[int] | None:
    """In order of ids; None where rounding decides on the last one."""
    values = row.tolist()
    order = sorted(range(len(values)), key=lambda i: (-values[i], i))[: top_k or len(values)]
    weights = [math.exp(values[i]) for i in order]
    before = [0.0, *accumulate(weights)]
    shares = [share / before[-1] for share in before[:-1]]
    if top_p < 1 and any(abs(share - top_p) < _NEAR for share in shares[1:]):
        return None
    kept = [i for i, share in zip(order, shares, strict=True) if top_p == 1 or share < top_p]
    return sorted(kept)


def rows_of(spread: float, levels: int | None) -> Tensor:
    rows = torch.randn(3, VOCABULARY, generator=torch.Generator().manual_seed(7)) * spread
    if levels is not None:  # many equal ones
        rows = (rows * levels / spread).round() * spread / levels
    return rows - rows.amax(dim=-1, keepdim=True)


# From nearly all tokens that are needed to a few, and one.
@pytest.mark.parametrize("spread", [0.01, 1, 4, 40])
@pytest.mark.parametrize("levels", [None, 2])
def test_what_is_left(spread: float, levels: int | None) -> None:
    rows = rows_of(spread, levels)
    choices = [
        (top_k, top_p)
        for top_k in (0, 1, 7, _LIKELIEST, _LIKELIEST + 1, VOCABULARY, 10**30)
        for top_p in (1e-9, 0.3, 0.9, 0.999, 1.0)
    ]
    compared = 0
    for top_k, top_p in choices:
        params = [SamplingParams(1, temperature=1.0, top_k=top_k, top_p=top_p)] * len(rows)
        for row, found in zip(rows, narrowed(rows, params), strict=True):
            kept = found.isfinite().nonzero()[:, 0].tolist()
            assert torch.equal(found[kept], row[kept])
            wanted = left(row, top_k, top_p)
            if wanted is not None:
                assert kept == wanted, (top_k, top_p)
                compared += 1
    assert compared > 0.7 * len(choices) * len(rows)


@pytest.mark.parametrize("spread", [0.01, 2])  # far more than the likeliest are needed, and fewer
def test_a_row_has_its_own_parameters(spread: float) -> None:
    rows = rows_of(spread, None)
    params = [
        SamplingParams(1, temperature=1.0, top_k=3),
        SamplingParams(1, temperature=1.0, top_p=0.5),
        SamplingParams(1, temperature=1.0, top_p=0.9),
    ]
    together = narrowed(rows, params)
    alone = [narrowed(row[None], [own]) for row, own in zip(rows, params, strict=True)]
    assert torch.equal(together, torch.cat(alone))
    three, half, most = (int(row.isfinite().sum()) for row in together)
    assert 3 == three < half < most


@pytest.mark.parametrize("bad", [torch.nan, -torch.inf])
def test_numbers_that_have_no_order(bad: float) -> None:
    """As long as nothing raises: who samples of them is refused elsewhere."""
    rows = rows_of(1, None)
    rows[1] = bad
    params = [SamplingParams(1, temperature=1.0, top_k=5, top_p=0.9)] * 3
    found = narrowed(rows, params)
    assert torch.equal(found[::2], narrowed(rows[::2], params[::2]))


def test_nothing_about_a_row_depends_on_others() -> None:
    """Borders that lie where a share ends, and a vocabulary that several threads would divide."""
    usual = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        torch.manual_seed(0)
        for _ in range(40):
            rows = 4 * torch.randn(2, 50_000)
            rows -= rows.amax(-1, keepdim=True)
            likeliest = rows.topk(_LIKELIEST).values.exp()
            before = (likeliest.cumsum(-1) - likeliest) / rows.exp().sum(-1, True)
            params = [SamplingParams(1, top_p=float(before[0, 20])), SamplingParams(1)]
            together = narrowed(rows, params)[0]
            assert torch.equal(narrowed(rows[:1], params[:1])[0], together)
    finally:
        torch.set_num_threads(usual)
