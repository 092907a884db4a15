"""One batch of logits to tokens."""

from typing import Any

import pytest
import torch
from torch import Tensor

from fromage_server.engine import InvalidRequest, SamplingParams
from fromage_server.engine.sampling import Sampled, SamplingRow, sample

RET = 4


def row(uniform: float = 0.5, forbidden: tuple[int, ...] = (), **options: Any) -> SamplingRow:
    return SamplingRow(SamplingParams(max_tokens=1, **options), forbidden, uniform)


def one(logits: list[float], **options: Any) -> Sampled:
    (sampled,) = sample(torch.tensor([logits]), [row(**options)], RET).land()
    assert sampled is not None
    return sampled


def reachable(logits: list[float], **options: Any) -> list[int]:
    """Tokens by how often they come up, over evenly spread draws."""
    draws = [(i + 0.5) / 400 for i in range(400)]
    rows = [row(uniform, temperature=1.0, **options) for uniform in draws]
    sampled = sample(torch.tensor([logits] * 400), rows, RET).land()
    counts = [0] * len(logits)
    for token in sampled:
        assert token is not None
        counts[token.token_id] += 1
    return counts


def test_temperature_zero_takes_the_largest() -> None:
    assert one([0.1, 3.0, 2.9, -1.0, 0.0]).token_id == 1


@pytest.mark.parametrize(("factor", "expected"), [(1.0, 1), (1.5, RET), (0.0, 1)])
def test_the_raw_ret_logit_is_multiplied(factor: float, expected: int) -> None:
    assert one([0.0, 2.5, 0.0, 0.0, 2.0], ret_scale_factor=factor).token_id == expected


def test_a_negative_ret_logit_gets_more_negative() -> None:
    assert one([-3.0, -3.0, -3.0, -3.0, -2.0], ret_scale_factor=2.0).token_id == 0


def test_forbidden_tokens_are_impossible_at_any_temperature() -> None:
    assert one([0.0, 9.0, 1.0, 0.0, 8.0], forbidden=(1, RET)).token_id == 2
    assert reachable([0.0, 9.0, 1.0, 0.0, 8.0], forbidden=(1, RET))[1::3] == [0, 0]


def test_draws_follow_the_distribution() -> None:
    logits = torch.tensor([0.1, 0.2, 0.3, 0.4, 1e-9]).log()
    assert reachable(logits.tolist()) == [40, 80, 120, 160, 0]


def test_temperature_comes_before_top_k_and_top_p() -> None:
    probabilities = torch.tensor([0.5, 0.3, 0.15, 0.05, 1e-9])
    logits = probabilities.log().tolist()
    assert reachable(logits, top_k=2) == [250, 150, 0, 0, 0]
    # 0.5 and 0.3 reach 0.75 together; 0.5 alone does not.
    assert reachable(logits, top_p=0.75) == [250, 150, 0, 0, 0]
    # Of the two that top_k leaves, the first has 0.625 of the rest.
    assert reachable(logits, top_k=2, top_p=0.6) == [400, 0, 0, 0, 0]
    # At temperature 0.5 the first has 0.68 of the whole.
    cold = [row(u / 100, temperature=0.5, top_p=0.6) for u in range(100)]
    sampled = sample(torch.tensor([logits] * 100), cold, RET).land()
    assert {token.token_id for token in sampled if token} == {0}


@pytest.mark.parametrize("options", [{"top_k": 10**400}, {"top_k": 5}, {"top_p": 1.0}, {}])
def test_filters_that_keep_everything(options: dict[str, Any]) -> None:
    assert reachable([1.0, 1.0, 1.0, 1.0, 1.0], **options) == [80] * 5


def test_a_tiny_top_p_keeps_the_likeliest() -> None:
    assert reachable([0.0, 1.0, 0.5, 0.0, 0.0], top_p=1e-9) == [0, 400, 0, 0, 0]


@pytest.mark.parametrize("temperature", [1e-10, 1e-30, 5e-324])
def test_a_tiny_temperature_is_greedy(temperature: float) -> None:
    assert one([50.0, 50.1, -80.0, 0.0, 0.0], temperature=temperature).token_id == 1


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_numbers_that_are_not_finite_hurt_only_their_row(bad: float, temperature: float) -> None:
    logits = torch.tensor([[0.0, 1.0, bad, 0.0, 0.0], [0.0, 0.0, 0.0, 30.0, 0.0]])
    rows = [row(temperature=temperature, top_p=0.9, logprobs=2)] * 2
    broken, fine = sample(logits, rows, RET).land()
    assert broken is None
    assert fine is not None
    assert fine.token_id == 3


def test_everything_forbidden_gives_nothing() -> None:
    assert sample(torch.zeros(1, 5), [row(forbidden=(0, 1, 2, 3, RET))], RET).land() == [None]


def test_logprobs_are_of_the_distribution_sampled_from() -> None:
    logits = [0.5, 2.0, 1.0, 0.0, 1.5]
    scaled = torch.tensor([0.5, -torch.inf, 1.0, 0.0, 3.0])
    greedy = one(logits, ret_scale_factor=2.0, forbidden=(1,), logprobs=3).logprob
    assert greedy is not None
    expected: Tensor = scaled.log_softmax(-1)
    assert greedy.token_id == RET
    assert greedy.logprob == pytest.approx(expected[RET].item())
    assert [token for token, _ in greedy.top] == [RET, 2, 0]
    assert [p for _, p in greedy.top] == pytest.approx(expected[[RET, 2, 0]].tolist())

    warm = one(logits, temperature=2.0, top_k=2, logprobs=5).logprob
    assert warm is not None
    halved = torch.tensor([2.0, 1.5]).div(2).log_softmax(-1)
    assert dict(warm.top) == pytest.approx({1: halved[0].item(), RET: halved[1].item()})


def test_logprobs_sum_to_one() -> None:
    logprob = one(torch.randn(5).tolist(), temperature=0.8, top_p=0.9, logprobs=5).logprob
    assert logprob is not None
    total = torch.tensor([value for _, value in logprob.top]).exp().sum()
    assert total.item() == pytest.approx(1.0, abs=1e-5)


def test_no_alternatives_unless_asked_for() -> None:
    assert one([0.0, 1.0, 0.0, 0.0, 0.0]).logprob is None
    zero = one([0.0, 1.0, 0.0, 0.0, 0.0], logprobs=0).logprob
    assert zero is not None
    assert zero.top == ()


def test_rows_keep_their_own_parameters() -> None:
    logits = torch.tensor([[0.0, 1.0, 0.9, 0.0, 0.8]] * 4)
    rows = [
        row(),
        row(ret_scale_factor=2.0),
        row(forbidden=(1,)),
        row(uniform=0.999, temperature=1.0, top_k=2),
    ]
    assert [s.token_id for s in sample(logits, rows, RET).land() if s] == [1, RET, 2, 2]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_tokens", -1),
        ("temperature", -0.1),
        ("temperature", float("nan")),
        ("temperature", float("inf")),
        ("top_p", 0.0),
        ("top_p", 1.1),
        ("top_k", -1),
        ("stop", ("a", "")),
        ("ret_scale_factor", float("nan")),
        ("max_num_rets", -1),
        ("min_word_tokens", -1),
        ("logprobs", -1),
    ],
)
def test_parameters_out_of_range_are_refused_by_name(field: str, value: Any) -> None:
    with pytest.raises(InvalidRequest, match=f"^{field} is .*allowed: ") as caught:
        SamplingParams(**{"max_tokens": 1, field: value})
    assert caught.value.field == field
