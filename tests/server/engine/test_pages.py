"""The GPU's attention kernel on this machine, by Triton's interpreter (slow, but the same code) and
through its compiler."""

import os
import subprocess
import sys
from importlib.util import find_spec

import pytest

# Multi-head, grouped heads, sliding windows, softcap.
FAMILIES = ("opt", "llama", "mistral", "gemma2")
pytestmark = pytest.mark.slow  # minutes, in the interpreter
needs_triton = pytest.mark.skipif(find_spec("triton") is None, reason="triton is not installed")
_RUN = """
import sys
from dataclasses import replace
from fromage_server.engine import Engine, EngineConfig
from fromage_server.engine.attention_pages import PagesBackend
from tests.server.engine.driving import answer, answers, reply
from tests.server.engine.passes import passes
from tests.server.engine.test_equals_generate import expected_of, prompts_of, requests_of
from tests.server.engine.test_rets import check
from tests.server.engine.tiny import grounded, image, text

family = sys.argv[1]
model, expected = grounded(family, True), expected_of(family, True)
kept = (0, 3, 5)
expected = [expected[i] for i in kept]
requests = [replace(requests_of(family, True)[i], id=str(i)) for i in kept]
engine = Engine(model, EngineConfig(prefill_tokens=40), PagesBackend(use_varlen=False))
heard = answers(engine, requests, steps_between=2)
assert [h.ids for h in heard] == expected
engine.check_idle()
# Steps as a recorded pass would take them, and the next one launched before they land. With 16
# streams a step has too few tokens for the last layer to be narrowed.
config = EngineConfig(max_batch=16 if family == "llama" else 6, prefill_tokens=12)
engine = Engine(model, config, PagesBackend(use_varlen=False), ahead=True, graphs=True)
engine.warm_up()
passes.clear()
heard = answers(engine, requests, steps_between=3)
assert [h.ids for h in heard] == expected
engine.check_idle()
assert len(passes) >= 8, passes
found = 0  # [RET]s
for i, prompt in enumerate(prompts_of(family, True)[:2]):
    ret = reply(f"ret {i}", prompt, 12, ret_scale_factor=30.0)
    found += check(model, ret, answer(engine, ret))
assert found > 0 or family == "llama", "too few [RET]s"
# [RET]s of a prompt: one in a piece, and several, which no recorded pass brings.
prompt = (text(model, "The prompt has "), image(2), text(model, " [RET]s, three of them"))
for positions, recorded in (((3, 19), 3), ((14, 16, 20), 2)):
    passes.clear()
    ret = reply("of a prompt", prompt, 3, prompt_ret_positions=positions)
    check(model, ret, answer(engine, ret))
    assert len(passes) == recorded, passes
print("equal")
"""
_SPLIT = """
import itertools
import torch
from fromage_server.engine.attention_pages import single_tokens
from fromage_server.engine.paged_kernel import paged_attention, splits_for

torch.manual_seed(0)
PAGE, shared, dim = 16, 2, 24
lengths = torch.tensor([1, 70, 333, 64, 640], dtype=torch.int32)
count, width = len(lengths), 40
pages = torch.randperm(count * width, dtype=torch.int32).view(count, width)
states = torch.randn(2, count * width, PAGE, shared, dim)


def expected(query, window, softcap):
    rows = []
    for row, length, table in zip(query, lengths.tolist(), pages.long(), strict=True):
        first = max(0, length - window) if window else 0
        keys, values = states[:, table].view(2, -1, shared, dim)[:, first:length]
        group = len(row) // shared
        keys, values = (x.repeat_interleave(group, 1) for x in (keys, values))
        scores = torch.einsum("hd,khd->hk", row, keys) * 0.3
        if softcap:
            scores = softcap * torch.tanh(scores / softcap)
        rows.append(torch.einsum("hk,khd->hd", scores.softmax(1), values))
    return torch.stack(rows)


for group, window, softcap, splits in itertools.product((1, 3), (0, 50), (0.0, 5.0), (1, 4, 8)):
    query = torch.randn(count, shared * group, dim)
    out = torch.full_like(query, float("nan"))
    scratch = single_tokens(pages, lengths)
    tables = scratch["tables"]
    paged_attention(
        query, *states, out, pages, tables.starts, lengths, scratch["tiles", 1], 1,
        0.3, window, softcap, splits,
    )
    torch.testing.assert_close(out, expected(query, window, softcap), atol=1e-5, rtol=1e-5)
# One stream of 32 heads on 132 processors; 64 streams; a short one.
assert [splits_for(32, 2048, 132), splits_for(64 * 32, 2048, 132), splits_for(32, 200, 132)] == [
    16, 1, 1,
]
print("equal")
"""
_COMPILED = """
from itertools import product
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from fromage_server.engine import paged_kernel

POINTERS = {name: "*bf16" for name in ("query", "keys", "values", "out")} | {"parts": "*fp32"}
POINTERS |= {name: "*i32" for name in ("table", "starts", "lengths", "tile_of", "first_of")}
NUMBERS = {"scale": "fp32", "softcap": "fp32"}


def compiled(kernel, capability, constants):
    types = {name: "i32" for name in kernel.arg_names} | POINTERS | NUMBERS
    types = {name: types[name] for name in kernel.arg_names}
    types |= {name: "constexpr" for name in constants}
    # What a call finds out: the pages and strides of any real model.
    even = set(types) - set(constants) - set(NUMBERS) - {"table_row"}
    source = ASTSource(
        kernel, types, constants,
        {(kernel.arg_names.index(name),): [["tt.divisibility", 16]] for name in even},
    )
    return triton.compile(source, target=GPUTarget("cuda", capability, 32)).asm["ptx"]


fixed = {"PAGE": 16, "COLUMNS": 64, "DIM": 128, "DIM_PADDED": 128}
decode = fixed | {"GROUP": 1, "ROWS": 16, "TOKENS": 1}
prompt = fixed | {"GROUP": 4, "ROWS": 64, "TOKENS": 16, "SPLITS": 1}
plain, special = {"WINDOW": 0, "CAPPED": False}, {"WINDOW": 4096, "CAPPED": True}
kinds = [decode | {"SPLITS": 1}, decode | {"SPLITS": 8}, prompt]
for capability, kind, scores in product((80, 90), kinds, (plain, special)):
    ptx = compiled(paged_kernel._kernel, capability, kind | scores)
    # Keys and values come in 16 bytes at a time, while the ones before are being used.
    assert "cp.async.cg.shared.global" in ptx, (capability, kind, scores)
assert compiled(paged_kernel._join, 90, {"SPLITS": 8, "DIM": 128, "DIM_PADDED": 128})
print("equal")
"""
_WHATEVER_COMES = """
import random
import sys
from functools import partial
from fromage_server.engine import Engine
from fromage_server.engine.attention_pages import PagesBackend
from tests.server.engine.arrivals import engine_of, whatever_comes
from tests.server.engine.passes import passes
from tests.server.engine.tiny import grounded

family, tokens, seed = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
model = grounded(family, True)
engines = partial(Engine, ahead=True, graphs=True)
backend = PagesBackend(use_varlen=False)
engine = engine_of(engines, model, 5, backend, max_batch=5, prefill_tokens=tokens)
engine.warm_up()
passes.clear()
whatever_comes(model, engine, random.Random(seed), requests=9)
counts = engine.stats().counts
assert counts.preempted > 0 and counts.cancelled > 0 and counts.cached_tokens > 0, counts
assert len(passes) > 5, passes
print("equal")
"""


def succeeds(program: str, *args: str, interpreted: bool = True) -> None:
    done = subprocess.run(
        [sys.executable, "-c", program, *args],
        env=os.environ | {"TRITON_INTERPRET": str(int(interpreted))},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.stdout.endswith("equal\n"), done.stderr[-3000:]


@needs_triton
@pytest.mark.parametrize("family", FAMILIES)
def test_the_kernel_gives_the_same_tokens(family: str) -> None:
    succeeds(_RUN, family)


@needs_triton
@pytest.mark.parametrize(("family", "tokens", "seed"), [("opt", "20", "1"), ("mistral", "90", "2")])
def test_whatever_comes_while_steps_are_recorded_and_launched_ahead(
    family: str, tokens: str, seed: str
) -> None:
    succeeds(_WHATEVER_COMES, family, tokens, seed)


@needs_triton
def test_programs_that_share_a_sequences_keys_find_the_same() -> None:
    succeeds(_SPLIT)


@needs_triton
def test_the_kernels_compile_for_gpus() -> None:
    """For the architectures of the A100 and the H100; the compiler needs no GPU."""
    succeeds(_COMPILED, interpreted=False)
