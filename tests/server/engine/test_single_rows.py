"""One row times a stored matrix, in a kernel of our own."""

import logging
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from fromage_server.engine import single_rows
from fromage_server.engine.single_rows import single_row

# Less than a vector, less than four outputs, rests of both, and what several threads divide.
SHAPES = [(1, 1), (3, 7), (4, 16), (70, 48), (65, 100), (3072, 768), (5003, 33)]


@pytest.fixture(autouse=True)
def compiled() -> None:
    if single_rows.kernel(torch.float32) is None:
        pytest.skip("there is no C++ compiler")


def inputs(outputs: int, width: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    row, weight, bias = torch.randn(1, 1, width), torch.randn(outputs, width), torch.randn(outputs)
    return row.to(dtype), weight.to(dtype), bias.to(dtype)


@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize(("outputs", "width"), SHAPES)
def test_it_multiplies_as_a_linear_layer(
    outputs: int, width: int, dtype: torch.dtype, with_bias: bool
) -> None:
    row, weight, bias = inputs(outputs, width, dtype)
    added = bias if with_bias else None
    found = single_row(row, weight, added)
    exact = functional.linear(row.double(), weight.double(), bias.double() if with_bias else None)
    assert found.dtype == dtype
    # Sums in float32; what is told in bfloat16 is rounded once.
    rounding = 0.0 if dtype == torch.float32 else 2**-8
    torch.testing.assert_close(
        found.double(), exact, rtol=rounding + 1e-6, atol=1e-6 * math.sqrt(width)
    )


def test_numbers_that_are_none_are_not_hidden() -> None:
    row, weight, bias = inputs(70, 48, torch.float32)
    weight[3, 7], weight[69, 1] = math.nan, math.inf
    found = single_row(row, weight, bias)[0, 0]
    assert found[3].isnan()
    assert found[69].isinf()
    assert found.isfinite().sum() == 68


def test_it_reads_a_row_of_a_larger_tensor() -> None:
    row, weight, bias = inputs(70, 48, torch.float32)
    wide = torch.randn(48, 5)
    wide[:, 2] = row
    expected = single_row(row, weight, bias)[0, 0]
    assert torch.equal(single_row(wide[:, 2], weight, bias), expected)


def test_other_numbers_have_none() -> None:
    assert single_rows.kernel(torch.float16) is None


def test_without_a_compiler_there_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("CXX", "/bin/false")
    single_rows._call.cache_clear()
    with caplog.at_level(logging.INFO, logger="fromage_server"):
        assert single_rows.kernel(torch.float32) is None
    assert "single rows are multiplied by torch" in caplog.text
    single_rows._call.cache_clear()
