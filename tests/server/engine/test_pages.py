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
from fromage_server.engine import Engine, EngineConfig
from fromage_server.engine.attention_pages import PagesBackend
from tests.server.engine.driving import answers
from tests.server.engine.test_equals_generate import expected_of, requests_of
from tests.server.engine.tiny import grounded

for family in sys.argv[1:]:
    model = grounded(family, True)
    engine = Engine(model, EngineConfig(prefill_tokens=40), PagesBackend(use_varlen=False))
    kept = (0, 3, 5)
    heard = answers(engine, [requests_of(family, True)[i] for i in kept], steps_between=2)
    assert [h.ids for h in heard] == [expected_of(family, True)[i] for i in kept], family
    engine.check_idle()
print("equal")
"""


@needs_triton
def test_the_kernel_gives_the_same_tokens() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _RUN, *FAMILIES],
        env=os.environ | {"TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.stdout.endswith("equal\n"), done.stderr[-3000:]
