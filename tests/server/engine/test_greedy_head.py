"""The likeliest token without all logits is the one that all logits tell."""

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from fromage_server.engine import Engine, EngineConfig, greedy_head, packing
from fromage_server.engine.few_rows import few_rows
from fromage_server.engine.greedy_head import GreedyHead, bytes_beside, is_possible
from fromage_server.engine.request import SamplingParams
from fromage_server.engine.sampling import SamplingRow, sample
from tests.server.engine.compiling import skip_without_compiler
from tests.server.engine.driving import answers, reply
from tests.server.engine.test_tape import packed_opt
from tests.server.engine.tiny import text

RET = 3
# Less than a piece, less than a group of codes, rests of both, and what several threads divide.
SHAPES = [(5, 1), (48, 64), (50, 70), (5003, 33), (3072, 768)]
NUMBERS = pytest.mark.parametrize(
    "dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"]
)

# Of processors: what this one does best, AVX2, neither.
KINDS = pytest.mark.parametrize("kind", [2, 1, 0])


@pytest.fixture(autouse=True)
def compiled() -> None:
    skip_without_compiler(is_possible(torch.float32))


def greedy(*forbidden: int, factor: float = 1.0) -> SamplingRow:
    return SamplingRow(SamplingParams(8, ret_scale_factor=factor), forbidden, 0.0)


def by_all_logits(
    states: Tensor, weight: Tensor, bias: Tensor | None, rows: list[SamplingRow]
) -> Tensor:
    return sample(few_rows(states, weight, bias).float(), rows, RET).tokens


@NUMBERS
@KINDS
@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("count", [1, 2, 4, 7, 16])
@pytest.mark.parametrize(("outputs", "width"), SHAPES)
def test_it_finds_what_all_logits_tell(
    outputs: int, width: int, count: int, with_bias: bool, kind: int, dtype: torch.dtype
) -> None:
    torch.manual_seed(outputs + count)
    weight = torch.randn(outputs, width).to(dtype)
    bias = torch.randn(outputs).to(dtype) if with_bias else None
    head = GreedyHead(weight, bias, kind=kind)
    choices = [greedy(), greedy(1, 4), greedy(RET), greedy(factor=3.0), greedy(0, factor=0.5)]
    rows = [choices[i % len(choices)] for i in range(count)]
    for _ in range(5):
        states = torch.randn(count, width).to(dtype)
        expected = by_all_logits(states, weight, bias, rows)
        assert torch.equal(head.tokens(states, rows, RET), expected)


@NUMBERS
@KINDS
@pytest.mark.parametrize("width", [20, 33, 96, 100])
def test_equals_and_nearly_equals_are_told_apart(width: int, kind: int, dtype: torch.dtype) -> None:
    """Where nearly all tokens are as likely: rows of weights that are the same or differ by what
    codes cannot tell."""
    torch.manual_seed(0)
    row = torch.randn(width)
    weight = (row + 1e-4 * torch.randn(500, width)).to(dtype)
    weight[100:] = weight[:400].clone()
    head = GreedyHead(weight, None, kind=kind)
    rows = [greedy()] * 4
    for _ in range(20):
        states = torch.randn(4, width).to(dtype)
        expected = by_all_logits(states, weight, None, rows)
        assert torch.equal(head.tokens(states, rows, RET), expected)


@pytest.mark.parametrize("width", [20, 33, 96, 100])
def test_the_first_of_equals_is_found(width: int) -> None:
    weight = torch.randn(width).repeat(50, 1)
    for state in torch.randn(20, 1, width):
        assert GreedyHead(weight, None).tokens(state, [greedy(0, RET)], RET) == 1
        assert by_all_logits(state, weight, None, [greedy(0, RET)]) == 1


@KINDS
def test_rows_with_large_numbers_in_few_places(kind: int) -> None:
    """Codes are coarse there, and states as well."""
    torch.manual_seed(0)
    weight, states = torch.randn(2000, 256), torch.randn(16, 256)
    weight[::3, 7] *= 200
    states[:, 9] *= 50_000
    states[:, 9] += 1e5
    states[5] *= 1e-8
    weight[:, 9] *= 1e-3
    rows = [greedy()] * 16
    found = GreedyHead(weight, None, kind=kind).tokens(states, rows, RET)
    assert torch.equal(found, by_all_logits(states, weight, None, rows))


@KINDS
@pytest.mark.parametrize("width", [8192, 16_384, 50_000])
def test_the_widest_rows_do_not_overflow(width: int, kind: int) -> None:
    """All numbers as large as they come, so that all codes are, too."""
    weight = torch.ones(70, width)
    weight[:, ::2] = -1
    weight[40] *= 1.001
    states = weight[:7].clone() * 3  # four together, two, and one
    rows = [greedy(), greedy(40), *[greedy()] * 5]
    found = GreedyHead(weight, None, kind=kind).tokens(states, rows, RET)
    assert found[0] == 40
    assert torch.equal(found, by_all_logits(states, weight, None, rows))


@pytest.mark.parametrize("factor", [-2.0, 0.0, 0.5, 1.0, 30.0])
def test_ret_is_weighed_by_its_factor(factor: float) -> None:
    """Whether it would win, and whatever the others come to."""
    torch.manual_seed(0)
    weight, states = torch.randn(90, 40), torch.randn(30, 40)
    states[:10] += 3 * weight[RET]
    states[10:20] -= 3 * weight[RET]
    rows = [greedy(factor=factor)] * 30
    head = GreedyHead(weight, None)
    assert torch.equal(head.tokens(states, rows, RET), by_all_logits(states, weight, None, rows))


@NUMBERS
@pytest.mark.parametrize("size", [1e-20, 1e-14, 1e14, 1e20])
def test_states_of_any_size(size: float, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    weight, states = torch.randn(300, 48).to(dtype), (torch.randn(8, 48) * size).to(dtype)
    rows = [greedy()] * 8
    found = GreedyHead(weight, None).tokens(states, rows, RET)
    assert torch.equal(found, by_all_logits(states, weight, None, rows))


def test_nothing_is_found_where_nothing_can_be() -> None:
    weight = torch.randn(60, 32)
    states = torch.randn(4, 32)
    states[1, 5], states[2, 6] = math.nan, math.inf
    rows = [greedy(), greedy(), greedy(), greedy(*range(60))]
    found = GreedyHead(weight, None).tokens(states, rows, RET)
    assert torch.equal(found, by_all_logits(states, weight, None, rows))
    assert found[1:].tolist() == [-1, -1, -1]


def test_zeros_are_weights_and_states_too() -> None:
    weight, states = torch.randn(60, 32), torch.randn(2, 32)
    weight[:30], states[1] = 0, 0
    rows = [greedy(0, 1), greedy(0, 1)]
    found = GreedyHead(weight, None).tokens(states, rows, RET)
    assert torch.equal(found, by_all_logits(states, weight, None, rows))
    assert found[1] == 2  # the first of equals that may be


def test_logits_beyond_all_numbers() -> None:
    weight = torch.ones(60, 32) * 1e10
    weight[5] *= -1
    states = torch.full((2, 32), 1e30)
    rows = [greedy(), greedy(*set(range(60)) - {5})]
    found = GreedyHead(weight, None).tokens(states, rows, RET)
    assert torch.equal(found, by_all_logits(states, weight, None, rows))
    assert found.tolist() == [-1, -1]


@pytest.mark.parametrize("number", [math.inf, math.nan, 1e15, 1e-15])
def test_weights_out_of_range_have_none(number: float) -> None:
    weight = torch.randn(10, 10)
    weight[3] = 0
    weight[3, 3] = number
    with pytest.raises(ValueError, match="out of range"):
        GreedyHead(weight, None)
    with pytest.raises(ValueError, match="out of range"):
        GreedyHead(torch.randn(2, 2), torch.tensor([0.0, math.nan]))


def test_other_numbers_have_none() -> None:
    with pytest.raises(ValueError, match="float16"):
        GreedyHead(torch.randn(2, 2).half(), None)


def test_without_a_home_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> None:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    greedy_head._call.cache_clear()
    try:
        assert not is_possible(torch.float32)
    finally:
        greedy_head._call.cache_clear()


def test_it_takes_few_greedy_rows() -> None:
    head = GreedyHead(torch.randn(10, 10), None)
    assert not head.takes([greedy()])  # it was not tried out
    head.most = 2
    assert head.takes([greedy(), greedy(4)])
    assert not head.takes([greedy()] * 3)
    for params in (SamplingParams(8, temperature=0.7), SamplingParams(8, logprobs=0)):
        assert not head.takes([greedy(), SamplingRow(params, (), 0.5)])
    assert not head.takes([SamplingRow(SamplingParams(8), (), 0.0, one_ret=0)])


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(17.0, 16), (0.5, 0), (3.0, 2)],
    ids=["always faster", "never", "up to two rows"],
)
def test_it_is_tried_out(seconds: float, expected: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock on which a greedy row takes a second, and all logits of any rows ``seconds``. No
    state is zero, which would make all tokens equal."""
    clock = [0.0]
    found = GreedyHead.tokens

    def all_logits(states: Tensor) -> Tensor:
        assert states.norm(dim=1).all()
        clock[0] += seconds
        return states @ weight.T

    def tokens(head: GreedyHead, states: Tensor, rows: list[SamplingRow], ret: int) -> Tensor:
        clock[0] += len(rows)
        return found(head, states, rows, ret)

    monkeypatch.setattr(greedy_head, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    monkeypatch.setattr(GreedyHead, "tokens", tokens)
    weight = torch.randn(100, 32)
    weight[:20] = 0
    head = GreedyHead(weight, None)
    head.try_out(all_logits)
    assert head.most == expected


def test_what_it_holds_is_told_before() -> None:
    weight = torch.randn(4_200, 1_000)
    head = GreedyHead(weight, None)
    held = sum(t.nbytes for t in (head._codes, head._scale, head._error, head._norm))
    assert bytes_beside(*weight.shape) == held
    assert bytes_beside(3_000, 320) == 0


@NUMBERS
@pytest.mark.parametrize("streams", [1, 3])
def test_replies_are_the_same(
    dtype: torch.dtype, streams: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that are sampled or asked for logprobs come between."""
    asked: list[int] = []
    found = GreedyHead.tokens

    def tokens(head: GreedyHead, states: Tensor, rows: list[SamplingRow], ret: int) -> Tensor:
        asked.append(len(rows))
        return found(head, states, rows, ret)

    def heard() -> list[list[int]]:
        model = packed_opt(dtype)
        engine = Engine(model, EngineConfig(max_batch=streams))
        engine.warm_up()
        kinds: list[dict[str, Any]] = [{}, {"logprobs": 2}, {"temperature": 0.8, "seed": 5}, {}]
        requests = [
            reply(f"{len(extra)} {i} {j}", (text(model, "Is this " * (1 + i)),), 12, **extra)
            for j, extra in enumerate(kinds)
            for i in range(streams)
        ]
        return [h.ids for h in answers(engine, requests)]

    def most_tried(head: GreedyHead, module: Any) -> None:
        head.most = 16

    monkeypatch.setattr(packing, "_most_rows", lambda few, layers: 16)
    monkeypatch.setattr(GreedyHead, "try_out", most_tried)
    monkeypatch.setattr(GreedyHead, "tokens", tokens)
    plain = heard()
    assert not asked  # so small a head has none
    monkeypatch.setattr(greedy_head, "_WORTH_IT", 0)
    assert heard() == plain
    assert asked
