"""Compiled attention of single queries: what it makes of extreme numbers, and how it is built."""

import logging
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from fromage_server.engine import Engine, EngineConfig, compiled, single_queries
from fromage_server.engine.attention_runs import RunsBackend
from fromage_server.engine.single_queries import Kernel, Queries
from tests.server.engine.compiling import skip_without_compiler
from tests.server.engine.driving import answers
from tests.server.engine.test_equals_generate import expected_of, requests_of
from tests.server.engine.tiny import grounded

PLACES, DIM = 5000, 64


@pytest.fixture(scope="module")
def kernel() -> Kernel:
    found = single_queries.kernel()
    skip_without_compiler(found)
    assert found is not None
    return found


@pytest.fixture
def uncached() -> None:
    single_queries.kernel.cache_clear()


def attend(kernel: Kernel, query: Tensor, stored: Tensor, seen: list[tuple[int, int]]) -> Tensor:
    """(H, D) over (2, K, P, D); the newest place is the last one seen, and keeps what it has."""
    place = seen[-1][1] - 1
    key, value = stored[:, :, place : place + 1].clone()
    out = torch.empty(1, *query.shape)
    queries = Queries([0], [place], [seen])
    kernel(queries, stored, query[:, None], key, value, out, 1.0, 0.0)
    return out[0]


@pytest.mark.parametrize("size", [0.0, 1.0, 30.0, 1000.0])
def test_thousands_of_keys_with_scores_of_any_size(kernel: Kernel, size: float) -> None:
    torch.manual_seed(0)
    query, stored = torch.randn(6, DIM) * size, torch.randn(2, 2, PLACES, DIM)
    seen = [(4000, 5000), (17, 2300)]
    found = attend(kernel, query, stored, seen)
    keys, values = torch.cat([stored[:, :, a:b] for a, b in seen], dim=2).double()
    weights = (query.double().view(2, 3, DIM) @ keys.transpose(1, 2)).softmax(-1)
    # What rounding takes from a score, its weight loses in proportion.
    lost = size * DIM * torch.finfo(torch.float32).eps
    torch.testing.assert_close(
        found.double(), (weights @ values).view(6, DIM), atol=3e-5 + lost, rtol=3e-5
    )


def test_it_takes_only_what_fits_the_storage() -> None:
    def takes(heads: int, kept: int, dim: int) -> bool:
        query, key = torch.zeros(heads, 1, dim), torch.zeros(kept, 1, dim)
        return Kernel.takes(torch.zeros(2, 2, 64, DIM), query, key, key)

    assert takes(6, 2, DIM)
    assert not takes(6, 2, DIM + 1)
    assert not takes(6, 3, DIM)
    assert not takes(5, 2, DIM)  # heads that would be left over


def test_where_blocks_lie_changes_no_bit(kernel: Kernel) -> None:
    torch.manual_seed(0)
    query, stored = torch.randn(2, DIM), torch.randn(2, 2, 96, DIM)
    whole = attend(kernel, query, stored, [(0, 96)])
    parts = [(64, 96), (0, 32), (32, 64)]
    moved = torch.empty_like(stored)
    at = 0
    for first, last in parts:
        moved[:, :, first:last] = stored[:, :, at : at + last - first]
        at += last - first
    assert torch.equal(attend(kernel, query, moved, parts), whole)


@pytest.mark.parametrize("strange", [math.nan, math.inf])
def test_numbers_that_are_none_are_not_hidden(kernel: Kernel, strange: float) -> None:
    """The engine ends a reply whose numbers are not finite; others go on."""
    stored = torch.ones(2, 2, 32, DIM)
    stored[0, 0, 7, 3] = strange
    found = attend(kernel, torch.ones(2, DIM), stored, [(0, 32)])
    assert found[0].isnan().all()
    assert found[1].isfinite().all()


def test_without_a_compiler_the_engine_says_the_same(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    uncached: None,
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("CXX", "/bin/false")
    with caplog.at_level(logging.INFO, logger="fromage_server"):
        assert single_queries.kernel() is None
    assert "attention on the CPU runs in plain torch" in caplog.text
    assert not list(tmp_path.rglob("*.so"))
    for family in ("opt", "mistral", "gemma2"):
        engine = Engine(grounded(family, True), EngineConfig(prefill_tokens=40), RunsBackend())
        heard = answers(engine, requests_of(family, True), steps_between=2)
        assert [h.ids for h in heard] == expected_of(family, True)
        engine.check_idle()
    single_queries.kernel.cache_clear()


def test_it_is_built_once(
    kernel: Kernel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uncached: None
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert single_queries.kernel() is not None
    (made,) = tmp_path.rglob("*.so")
    monkeypatch.setenv("CXX", "/bin/false")
    single_queries.kernel.cache_clear()
    assert single_queries.kernel() is not None
    assert made.exists()


@pytest.mark.slow
def test_it_can_be_built_where_the_server_is_installed(
    kernel: Kernel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uncached: None
) -> None:
    """As the container does, which has no compiler later."""
    made = next(made for made in compiled.build_all(tmp_path) if "single_queries" in made.name)
    monkeypatch.setattr(compiled, "BESIDE", tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "nothing"))
    monkeypatch.setenv("CXX", "/bin/false")
    assert single_queries.kernel() is not None
    needed = subprocess.run(
        [sys.executable, "-c", _LOADED, str(made)], capture_output=True, text=True, check=True
    ).stdout.split()
    # torch's own, and no other: two would keep each other's threads from the cores.
    assert len(needed) == 1


_LOADED = """
import ctypes, sys, torch
ctypes.CDLL(sys.argv[1])
print(*{line.split()[-1] for line in open("/proc/self/maps") if "gomp" in line})
"""
