"""Compiled attention of prompts, against softmax written out in float64."""

import math

import pytest
import torch
from torch import Tensor

from fromage_server.engine import many_queries
from fromage_server.engine.attention import Span
from fromage_server.engine.many_queries import PromptKernel, Prompts, takes_prompts
from tests.server.engine.compiling import skip_without_compiler

Ranges = list[tuple[int, int]]


@pytest.fixture(scope="module")
def kernel() -> PromptKernel:
    found = many_queries.kernel()
    skip_without_compiler(found)
    assert found is not None
    return found


def attend(
    kernel: PromptKernel,
    stored: Tensor,
    query: Tensor,
    spans: list[Span],
    seen: list[Ranges],
    window: int = 0,
) -> Tensor:
    """(N, H, D); rows of no span are 7."""
    heads, tokens, dim = query.shape
    out = torch.full((tokens, heads, dim), 7.0)
    kernel(Prompts(spans, seen), stored[0], stored[1], query, out, dim**-0.5, window)
    return out


def written_out(stored: Tensor, query: Tensor, past: int, seen: Ranges, window: int = 0) -> Tensor:
    """(Q, H, D) of (H, Q, D)."""
    keys, values = torch.cat([stored[:, :, a:b] for a, b in seen], dim=2).double()
    groups = len(query) // len(keys)
    keys, values = (one.repeat_interleave(groups, 0) for one in (keys, values))
    scores = query.shape[2] ** -0.5 * query.double() @ keys.transpose(1, 2)
    at = torch.arange(past, past + query.shape[1])[:, None]
    key = torch.arange(keys.shape[1])[None]
    hidden = (key > at) | ((key <= at - window) if window else torch.tensor(False))
    found: Tensor = scores.masked_fill(hidden, -torch.inf).softmax(-1) @ values
    return found.transpose(0, 1)


# More queries than a thread takes at a time, and fewer than a vector; a piece's keys and one more
# or less; heads that share keys, more of them than a share; numbers of a head that fill no vector.
@pytest.mark.parametrize(
    ("heads", "kept", "dim"), [(3, 3, 64), (8, 2, 16), (130, 1, 20), (2, 1, 7)]
)
@pytest.mark.parametrize(
    ("count", "past"), [(2, 0), (2, 63), (64, 0), (65, 64), (7, 300), (300, 0), (141, 17)]
)
@pytest.mark.parametrize("window", [0, 1, 50, 1000])
def test_it_is_softmax(
    kernel: PromptKernel, heads: int, kept: int, dim: int, count: int, past: int, window: int
) -> None:
    torch.manual_seed(count)
    length, blocks = past + count, 40
    stored = torch.randn(2, kept, 16 * blocks, dim)
    query = torch.randn(count + 3, heads, dim).transpose(0, 1)
    first = 16 * (length // 32)
    seen = [(320, 320 + first), (0, length - first)] if first else [(16, 16 + length)]
    span = Span(2, 2 + count, past, ())
    found = attend(kernel, stored, query, [span], [seen], window)
    wanted = written_out(stored, query[:, 2 : 2 + count], past, seen, window)
    torch.testing.assert_close(found[2 : 2 + count].double(), wanted, atol=1e-5, rtol=1e-5)
    assert (found[:2] == 7).all()
    assert (found[2 + count :] == 7).all()


def test_others_in_the_call_change_no_bit(kernel: PromptKernel) -> None:
    torch.manual_seed(0)
    stored, query = torch.randn(2, 2, 400, 32), torch.randn(4, 60, 32)
    spans = [Span(0, 20, 100, ()), Span(20, 57, 3, ()), Span(57, 60, 0, ())]
    seen: list[Ranges] = [[(0, 64), (96, 152)], [(200, 240)], [(304, 307)]]
    together = attend(kernel, stored, query, spans, seen)
    for span, own in zip(spans, seen, strict=True):
        alone = attend(kernel, stored, query, [span], [own])
        rows = slice(span.start, span.stop)
        assert torch.equal(together[rows], alone[rows])


@pytest.mark.parametrize("size", [0.0, 30.0, 1000.0])
def test_scores_of_any_size(kernel: PromptKernel, size: float) -> None:
    """The largest score comes in every piece, first and last among them."""
    torch.manual_seed(0)
    stored, query = torch.randn(2, 2, 500, 64), size * torch.randn(2, 200, 64)
    found = attend(kernel, stored, query, [Span(0, 200, 300, ())], [[(0, 500)]])
    wanted = written_out(stored, query, 300, [(0, 500)])
    # What rounding takes from a score, its weight loses in proportion.
    lost = size * 64 * torch.finfo(torch.float32).eps
    torch.testing.assert_close(found.double(), wanted, atol=3e-5 + lost, rtol=3e-5)


@pytest.mark.parametrize("strange", [math.nan, math.inf])
def test_numbers_that_are_none_are_not_hidden(kernel: PromptKernel, strange: float) -> None:
    """The engine ends a reply whose numbers are not finite; those before it, and other heads, go
    on."""
    stored = torch.ones(2, 2, 160, 64)
    stored[0, 0, 100, 3] = strange
    found = attend(kernel, stored, torch.ones(2, 160, 64), [Span(0, 160, 0, ())], [[(0, 160)]])
    assert found[100:, 0].isnan().all()
    assert found[:100, 0].isfinite().all()
    assert found[:, 1].isfinite().all()


def test_it_takes_only_what_it_knows() -> None:
    stored = torch.zeros(2, 2, 64, 8)

    def takes(query: Tensor, softcap: float = 0.0) -> bool:
        return takes_prompts(stored, query, softcap)

    assert takes(torch.zeros(4, 5, 8))
    assert takes(torch.zeros(5, 4, 8).transpose(0, 1))
    assert not takes(torch.zeros(4, 5, 8), softcap=2.0)
    assert not takes(torch.zeros(4, 5, 7))
    assert not takes(torch.zeros(3, 5, 8))
    assert not takes(torch.zeros(4, 5, 8).bfloat16())
    assert not takes(torch.zeros(4, 8, 8).transpose(1, 2))
