"""Many rows times a matrix in panels, in a kernel of our own; and which layout a machine takes."""

import logging
import math
import time
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from fromage_server.engine import layouts, panels
from fromage_server.engine.panels import in_panels, product
from tests.server.engine.compiling import skip_without_compiler

# A part of a panel, a panel and a bit, more columns than a piece has, and what threads divide.
SHAPES = [(1, 1), (16, 2), (17, 3), (33, 770), (50, 1537), (768, 96)]


@pytest.fixture(autouse=True)
def compiled() -> None:
    skip_without_compiler(panels.is_possible(torch.float32))


def inputs(
    outputs: int, width: int, rows: int, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    x, weight, bias = torch.randn(1, rows, width), torch.randn(outputs, width), torch.randn(outputs)
    return x.to(dtype), weight.to(dtype), bias


@pytest.mark.parametrize("rows", [1, 2, 3, 5, 6, 8, 11, 12, 14, 20, 47, 97])
@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize(("outputs", "width"), SHAPES)
def test_it_multiplies_as_a_linear_layer(
    outputs: int, width: int, dtype: torch.dtype, with_bias: bool, rows: int
) -> None:
    x, weight, bias = inputs(outputs, width, rows, dtype)
    added = bias if with_bias else None
    found = product(x, in_panels(weight), added, outputs)
    exact = functional.linear(x.double(), weight.double(), bias.double() if with_bias else None)
    assert (found.dtype, found.shape) == (dtype, exact.shape)
    # Sums in float32, one number after the other; what is told in bfloat16 is rounded once.
    rounding = 0.0 if dtype == torch.float32 else 2**-8
    torch.testing.assert_close(
        found.double(), exact, rtol=rounding + 1e-6, atol=2e-6 * math.sqrt(width)
    )


@pytest.mark.parametrize("rows", [20, 97, 1400], ids=["few", "many", "more than a cache holds"])
def test_a_row_is_the_same_to_the_bit_whatever_it_is_computed_beside(rows: int) -> None:
    x, weight, bias = inputs(150, 1537, rows)
    packed = in_panels(weight)
    parts = [product(part, packed, bias, 150) for part in torch.split(x, 7, dim=1)]
    assert torch.equal(product(x, packed, bias, 150), torch.cat(parts, dim=1))


@pytest.mark.parametrize("rows", [20, 97, 1400], ids=["few", "many", "more than a cache holds"])
def test_a_row_is_the_same_to_the_bit_whoever_computes_it(rows: int) -> None:
    """With more threads than panels, too."""
    x, weight, bias = inputs(150, 1537, rows)
    packed, usual = in_panels(weight), torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2, 3, 16):
            torch.set_num_threads(threads)
            found.append(product(x, packed, bias, 150))
    finally:
        torch.set_num_threads(usual)
    assert all(torch.equal(found[0], other) for other in found)


def test_nothing_times_something_is_nothing() -> None:
    assert product(torch.ones(0, 5), in_panels(torch.ones(7, 5)), None, 7).shape == (0, 7)
    assert product(torch.ones(3, 5), in_panels(torch.ones(0, 5)), None, 0).shape == (3, 0)


def test_numbers_that_are_none_are_not_hidden() -> None:
    x, weight, bias = inputs(70, 48, rows=7)
    weight[3, 7], weight[69, 1], x[0, 4, 2] = math.nan, math.inf, math.inf
    found = product(x, in_panels(weight), bias, 70)[0]
    assert found[:, 3].isnan().all()
    assert not found[:, 69].isfinite().any()
    # Nothing of a row reaches its neighbour, and nothing of the last panel's rest anybody.
    assert not found[4].isfinite().any()
    assert found.isfinite().sum() == 6 * 68


def test_it_reads_a_part_of_a_larger_tensor() -> None:
    x, weight, bias = inputs(70, 48, rows=7)
    wide = torch.randn(7, 48, 5)
    wide[:, :, 2] = x
    packed = in_panels(weight)
    assert torch.equal(product(wide[:, :, 2], packed, bias, 70), product(x, packed, bias, 70)[0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_a_row_is_the_same_among_others(dtype: torch.dtype) -> None:
    """Whatever is computed beside it."""
    x, weight, bias = inputs(70, 800, 60, dtype)
    packed = in_panels(weight)
    together = product(x, packed, bias, 70)
    for count in (1, 2, 3, 5, 7, 8, 13, 14, 48, 49):
        assert torch.equal(product(x[:, :count], packed, bias, 70), together[:, :count])


def test_other_numbers_have_none() -> None:
    assert not panels.is_possible(torch.float16)


def test_without_a_compiler_there_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("CXX", "/bin/false")
    monkeypatch.setattr(panels, "_call", panels._call.__wrapped__)
    with caplog.at_level(logging.INFO, logger="fromage_server"):
        assert not panels.is_possible(torch.float32)
        assert layouts.in_panels not in layouts.layouts_for(torch.float32)
    assert "products of many rows are torch's" in caplog.text


@pytest.mark.parametrize("layout", [layouts.as_stored, layouts.onednn, layouts.in_panels])
def test_layouts_compute_the_same(layout: layouts.Layout) -> None:
    if layout is layouts.onednn and layout not in layouts.layouts_for(torch.float32):
        pytest.skip("torch has no oneDNN here")
    x, weight, bias = inputs(70, 48, rows=19)
    torch.testing.assert_close(layout(weight, bias)(x), functional.linear(x, weight, bias))


@pytest.mark.parametrize("threads", [1, 2, 7])
def test_threads_divide_rows_where_panels_are_few(threads: int) -> None:
    x, weight, bias = inputs(70, 800, 230)
    before = torch.get_num_threads()
    packed = in_panels(weight)
    expected = product(x, packed, bias, 70)
    torch.set_num_threads(threads)
    try:
        assert torch.equal(product(x, packed, bias, 70), expected)
    finally:
        torch.set_num_threads(before)
    assert product(x[:, :0], packed, bias, 70).shape == (1, 0, 70)


def test_without_a_layout_of_onednn_torch_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layouts, "_onednn_takes", lambda dtype: False)
    assert layouts.layouts_for(torch.bfloat16) == [layouts.as_stored, layouts.in_panels]


@pytest.mark.parametrize(
    ("seconds", "wins"), [(0.1, True), (1.0, True), (1.95, False), (3.0, False), (9.0, False)]
)
def test_the_faster_layout_is_taken(
    seconds: float, wins: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a clock that only the products move; the usual one stays where they differ little."""
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])

    def taking(seconds: float) -> layouts.Layout:
        def multiply(x: Tensor) -> Tensor:
            now[0] += seconds
            return x

        return lambda stored, bias: multiply

    usual, other = taking(2.0), taking(seconds)
    weights = [torch.empty(8, 8) for _ in range(3)]
    assert layouts.fastest([usual, other], weights) is (other if wins else usual)
    assert layouts.fastest([usual, other], []) is usual
