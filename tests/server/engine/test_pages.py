"""The GPU's attention kernel on this machine, by Triton's interpreter: slow, but the same code."""

import os
import subprocess
import sys
from importlib.util import find_spec

import pytest

# Multi-head, grouped heads, sliding windows, softcap.
FAMILIES = ("opt", "llama", "mistral", "gemma2")
needs_triton = pytest.mark.skipif(find_spec("triton") is None, reason="triton is not installed")
_RUN = """
import sys
from dataclasses import replace
from fromage_server.engine import Engine, EngineConfig
from fromage_server.engine.attention_pages import PagesBackend
from tests.server.engine.driving import answer, answers, reply
from tests.server.engine.test_equals_generate import expected_of, prompts_of, requests_of
from tests.server.engine.test_rets import check
from tests.server.engine.tiny import grounded

found = 0  # [RET]s
for family in sys.argv[1:]:
    model = grounded(family, True)
    engine = Engine(model, EngineConfig(prefill_tokens=40), PagesBackend(use_varlen=False))
    kept = (0, 3, 5)
    heard = answers(engine, [requests_of(family, True)[i] for i in kept], steps_between=2)
    assert [h.ids for h in heard] == [expected_of(family, True)[i] for i in kept], family
    engine.check_idle()
    if family not in ("opt", "mistral"):
        continue
    # Single tokens as a recorded pass would take them, and the next one launched before they land.
    engine = Engine(
        model, EngineConfig(max_batch=6), PagesBackend(use_varlen=False), ahead=True, graphs=True
    )
    engine.warm_up()
    requests = [replace(requests_of(family, True)[i], id=str(i)) for i in kept]
    heard = answers(engine, requests, steps_between=3)
    assert [h.ids for h in heard] == [expected_of(family, True)[i] for i in kept], family
    engine.check_idle()
    for i, prompt in enumerate(prompts_of(family, True)[:2]):
        ret = reply(f"ret {i}", prompt, 12, ret_scale_factor=30.0)
        found += check(model, ret, answer(engine, ret))
assert found > 0
print("equal")
"""
_WHATEVER_COMES = """
import random
from functools import partial
from fromage_server.engine import Engine
from fromage_server.engine.attention_pages import PagesBackend
from tests.server.engine.arrivals import engine_of, whatever_comes
from tests.server.engine.tiny import grounded

model = grounded("opt", True)
engines = partial(Engine, ahead=True, graphs=True)
backend = PagesBackend(use_varlen=False)
engine = engine_of(engines, model, 5, backend, max_batch=5, prefill_tokens=20)
whatever_comes(model, engine, random.Random(1), requests=9)
counts = engine.stats().counts
assert counts.preempted > 0 and counts.cancelled > 0 and counts.cached_tokens > 0, counts
print("equal")
"""


def interpreted(program: str, *args: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", program, *args],
        env=os.environ | {"TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.stdout.endswith("equal\n"), done.stderr[-3000:]


@needs_triton
def test_the_kernel_gives_the_same_tokens() -> None:
    interpreted(_RUN, *FAMILIES)


@needs_triton
def test_whatever_comes_while_steps_are_recorded_and_launched_ahead() -> None:
    interpreted(_WHATEVER_COMES)
