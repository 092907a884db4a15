"""Attention on a CPU against softmax written out, in all numbers, wherever the blocks lie."""

import pytest
import torch
from torch import Tensor

from fromage_server.engine import many_queries, single_queries
from fromage_server.engine.attention import BLOCK_SIZE, Layout, Scores, Span
from fromage_server.engine.attention_runs import RunsBackend
from fromage_server.engine.kv_cache import KVShape
from fromage_server.engine.many_queries import PromptKernel
from fromage_server.engine.single_queries import Kernel
from tests.server.engine.compiling import skip_without_compiler

HEADS, SHARED, DIM = 4, 2, 8


def built() -> tuple[Kernel, PromptKernel]:
    kernel, prompts = single_queries.kernel(), many_queries.kernel()
    skip_without_compiler(kernel)
    assert kernel is not None
    assert prompts is not None
    return kernel, prompts


# Neighbours, in two places, one block; two single tokens and a piece of a prompt.
SPANS = [
    Span(0, 1, 40, (3, 4, 5)),
    Span(1, 2, 19, (9, 1)),
    Span(2, 7, 6, (7,)),
]


def naive(query: Tensor, keys: Tensor, values: Tensor, past: int, scores: Scores) -> Tensor:
    """(H, Q, D) queries at `past` and on, (K, T, D) keys and values: (Q, H, D), in float64."""
    keys, values = (x.double().repeat_interleave(HEADS // SHARED, 0) for x in (keys, values))
    found = scores.scale * query.double() @ keys.transpose(1, 2)
    if scores.softcap:
        found = scores.softcap * torch.tanh(found / scores.softcap)
    at = torch.arange(past, past + query.shape[1])[:, None]
    seen = torch.arange(keys.shape[1])[None]
    hidden = seen > at
    if scores.window:
        hidden |= seen <= at - scores.window
    return (found.masked_fill(hidden, -torch.inf).softmax(-1) @ values).transpose(0, 1)


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("softcap", [0.0, 3.0])
@pytest.mark.parametrize("window", [0, 11])
@pytest.mark.parametrize(
    ("dtype", "kept", "off"),
    [
        (torch.float32, torch.float32, 1e-5),
        (torch.float16, torch.float16, 4e-3),
        (torch.bfloat16, torch.bfloat16, 3e-2),
        (torch.bfloat16, torch.float32, 5e-3),
    ],
)
def test_every_span_reads_its_own_past(
    dtype: torch.dtype,
    kept: torch.dtype,
    off: float,
    window: int,
    softcap: float,
    whole: bool,
    compiled: bool,
) -> None:
    torch.manual_seed(0)
    kernel, prompts = built() if compiled else (None, None)
    backend = RunsBackend(whole=whole, kernel=kernel, prompts=prompts)
    scores = Scores(0.5, window, softcap)
    stored = backend.allocate(KVShape(1, SHARED, DIM, kept), 10, torch.device("cpu"))[0]
    stored.normal_()
    layout = Layout.of(SPANS, torch.device("cpu"))
    query = torch.randn(HEADS, 7, DIM).to(dtype)
    key, value = torch.randn(2, SHARED, 7, DIM).to(dtype)
    found = backend.attend(layout, stored, query, key, value, scores)
    assert found.dtype == dtype
    for span in SPANS:
        places = torch.tensor(
            [span.blocks[i // BLOCK_SIZE] * BLOCK_SIZE + i % BLOCK_SIZE for i in range(span.length)]
        )
        rows = slice(span.start, span.stop)
        assert torch.equal(stored[0, :, places[span.past :]], key[:, rows].to(kept))
        keys, values = stored[:, :, places]
        expected = naive(query[:, rows], keys, values, span.past, scores)
        torch.testing.assert_close(found[rows].double(), expected, atol=off, rtol=off)
