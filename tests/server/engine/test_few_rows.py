"""A few rows times a stored matrix, in a kernel of our own."""

import logging
import math
import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from fromage_server.engine.compiled import build
from fromage_server.engine.few_rows import _call, few_rows, kernel
from tests.server.engine.compiling import skip_without_compiler

# Less than a vector, less than four outputs, rests of both, and what several threads divide.
SHAPES = [(1, 1), (3, 7), (4, 16), (70, 48), (65, 100), (3072, 768), (5003, 33)]


@pytest.fixture(autouse=True)
def compiled() -> None:
    skip_without_compiler(kernel(torch.float32))


def inputs(
    outputs: int, width: int, dtype: torch.dtype, rows: int = 1
) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    x, weight, bias = torch.randn(1, rows, width), torch.randn(outputs, width), torch.randn(outputs)
    return x.to(dtype), weight.to(dtype), bias.to(dtype)


@pytest.mark.parametrize("rows", [1, 2, 3, 5, 6, 11, 16])
@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize(("outputs", "width"), SHAPES)
def test_it_multiplies_as_a_linear_layer(
    outputs: int, width: int, dtype: torch.dtype, with_bias: bool, rows: int
) -> None:
    x, weight, bias = inputs(outputs, width, dtype, rows)
    added = bias if with_bias else None
    found = few_rows(x, weight, added)
    exact = functional.linear(x.double(), weight.double(), bias.double() if with_bias else None)
    assert found.dtype == dtype
    # Sums in float32; what is told in bfloat16 is rounded once.
    rounding = 0.0 if dtype == torch.float32 else 2**-8
    torch.testing.assert_close(
        found.double(), exact, rtol=rounding + 1e-6, atol=1e-6 * math.sqrt(width)
    )


def test_numbers_of_two_kinds_are_not_read_as_one() -> None:
    row, weight, bias = inputs(3, 7, torch.float32)
    with pytest.raises(AssertionError):
        few_rows(row, weight.bfloat16(), bias)


def test_numbers_that_are_none_are_not_hidden() -> None:
    row, weight, bias = inputs(70, 48, torch.float32)
    weight[3, 7], weight[69, 1] = math.nan, math.inf
    found = few_rows(row, weight, bias)[0, 0]
    assert found[3].isnan()
    assert found[69].isinf()
    assert found.isfinite().sum() == 68


def test_it_reads_a_row_of_a_larger_tensor() -> None:
    row, weight, bias = inputs(70, 48, torch.float32)
    wide = torch.randn(48, 5)
    wide[:, 2] = row
    expected = few_rows(row, weight, bias)[0, 0]
    assert torch.equal(few_rows(wide[:, 2], weight, bias), expected)


def test_a_row_is_the_same_among_others() -> None:
    """Whatever is computed beside it."""
    x, weight, bias = inputs(70, 48, torch.float32, rows=16)
    together = few_rows(x, weight, bias)
    for count in (1, 2, 5, 7):
        assert torch.equal(few_rows(x[:, :count], weight, bias), together[:, :count])


def test_other_numbers_have_none() -> None:
    assert kernel(torch.float16) is None


def test_a_compilers_command_may_have_arguments(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("CXX", f"{shutil.which('env')} g++ -DNOTHING")
    assert build("few_rows", tmp_path).stat().st_size


def test_without_a_compiler_there_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("CXX", "/bin/false")
    _call.cache_clear()
    with caplog.at_level(logging.INFO, logger="fromage_server"):
        assert kernel(torch.float32) is None
    assert "products of a few rows are torch's" in caplog.text
    _call.cache_clear()
