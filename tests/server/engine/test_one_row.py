"""One stream's step by the GPU's own kernels, on this machine: by Triton's interpreter, and through
its compiler."""

import pytest

from tests.server.engine.test_pages import needs_triton, succeeds

pytestmark = pytest.mark.slow

_KERNELS = """
import torch
from torch.nn import functional
from fromage_server.engine import gemv

torch.manual_seed(0)
for rows, width in ((8, 64), (7, 48), (33, 320), (5, 4096), (6, 5000)):
    x, weight, bias = torch.randn(1, width), torch.randn(rows, width), torch.randn(rows)
    added = torch.randn(1, rows)
    assert gemv.takes(weight) and not gemv.takes(weight.T)
    torch.testing.assert_close(gemv.product(x, weight), x @ weight.T, rtol=1e-4, atol=1e-3)
    found = gemv.product(x, weight, bias, added)
    expected = functional.linear(x, weight, bias) + added
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-3)
    found = gemv.product(x, weight, bias, relu=True)
    expected = functional.linear(x, weight, bias).relu()
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-3)
    scale, shift = torch.randn(width), torch.randn(width)
    found = gemv.layer_norm(x[None] + 3, scale, shift, 1e-5)
    expected = functional.layer_norm(x[None] + 3, (width,), scale, shift, 1e-5)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    found = gemv.rms_norm(x, scale, 1e-5, torch.float32, rounded=False)
    expected = functional.rms_norm(x, (width,), scale, 1e-5)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
print("equal")
"""
_PASSES = """
import sys
import torch
from collections import Counter
from fromage_server.engine import gemv
from fromage_server.engine.attention import Layout, Paged, Span
from fromage_server.engine.attention_runs import RunsBackend
from fromage_server.engine.kv_cache import KVShape, PagedCache
from fromage_server.engine.one_row import OneRow
from tests.server.engine.tiny import grounded

# Of each layer and of all: products, norms, with ReLU, with a sum.
COUNTS = {"opt": (4, 1, 2, 1, 1, 2), "llama": (4, 1, 2, 1, 0, 2), "gpt-neox": (4, 1, 2, 1, 0, 1)}
COUNTS["gemma2"] = (4, 1, 4, 1, 0, 0)
calls = Counter()


def counted(name):
    function = getattr(gemv, name)

    def call(*args, **kwargs):
        calls[name] += 1
        calls["relu"] += bool(kwargs.get("relu"))
        calls["added"] += name == "product" and len(args) > 3 and args[3] is not None
        return function(*args, **kwargs)

    setattr(gemv, name, call)


def passes(forward, paged, inputs):
    with torch.inference_mode():
        for at, row in enumerate(inputs):
            layout = Layout.of([Span(0, 1, at, (0,))], row.device)
            with paged.step(layout) as cache:
                yield forward(row, torch.tensor([[at]]), cache)


counted("product")
counted("layer_norm")
counted("rms_norm")
for family in sys.argv[1:]:
    model = grounded(family, family == "opt")
    shape = KVShape.of(model.lm, model.dtype, "cpu")
    paged = Paged(model.lm, PagedCache(shape, 2, model.device, RunsBackend()))
    inputs = [model.embed_ids(torch.tensor([[i + 3]])).clone() for i in range(4)]
    modules = lambda row, at, cache: model.forward(row, position_ids=at, past_key_values=cache)
    expected = list(passes(modules, paged, inputs))
    one_row = OneRow(model)
    calls.clear()
    found = list(passes(one_row, paged, inputs))
    assert one_row._take is not None
    for mine, other in zip(found, expected, strict=True):
        torch.testing.assert_close(mine.logits, other.logits, rtol=2e-4, atol=2e-4)
        torch.testing.assert_close(mine.hidden, other.hidden, rtol=2e-4, atol=2e-4)
    if family in COUNTS:
        each, head, norms, last, relus, sums = COUNTS[family]
        layers = model.lm.config.num_hidden_layers
        wanted = [each * layers + head, norms * layers + last, relus * layers, sums * layers]
        calls["norm"] = calls["layer_norm"] + calls["rms_norm"]
        made = [calls[name] / len(inputs) for name in ("product", "norm", "relu", "added")]
        assert made == wanted, (family, made, wanted)
    # Weights lie elsewhere now, and are what they were.
    for mine, other in zip(passes(modules, paged, inputs), expected, strict=True):
        assert torch.equal(mine.logits, other.logits), family
print("equal")
"""
_NEVER_WARMED_UP = """
from fromage_server.engine import Engine, EngineConfig
from fromage_server.engine.attention_pages import PagesBackend
from fromage_server.engine.decode_graphs import DecodeGraphs
from tests.server.engine.driving import answers
from tests.server.engine.test_equals_generate import expected_of, requests_of
from tests.server.engine.tiny import grounded

moved = []  # whether weights lie where they will stay, whenever a pass is made
live = DecodeGraphs._live


def checked(graphs, size):
    moved.append(graphs._one_row._take is not None)
    return live(graphs, size)


DecodeGraphs._live = checked
backend = PagesBackend(use_varlen=False)
engine = Engine(grounded("opt", True), EngineConfig(max_batch=3), backend, ahead=True, graphs=True)
heard = answers(engine, [requests_of("opt", True)[i] for i in (0, 3)])
assert [h.ids for h in heard] == [expected_of("opt", True)[i] for i in (0, 3)]
assert len(moved) > 1 and all(moved), moved
print("equal")
"""
_COMPILED = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from fromage_server.engine import gemv


def compiled(kernel, capability, constants):
    names = [name for name in kernel.arg_names if name not in constants]
    types = {name: "*bf16" for name in names} | dict.fromkeys(constants, "constexpr")
    types |= {name: kind for name, kind in (("count", "i32"), ("eps", "fp32")) if name in names}
    types = {name: types[name] for name in kernel.arg_names}
    even = [name for name in names if types[name] == "*bf16"]
    source = ASTSource(
        kernel, types, constants,
        {(kernel.arg_names.index(name),): [["tt.divisibility", 16]] for name in even},
    )
    return triton.compile(source, target=GPUTarget("cuda", capability, 32)).asm["ptx"]


for capability, early in ((80, False), (90, False), (90, True)):
    for width in (768, 4096, 16384):
        wide = min(4096, triton.next_power_of_2(width))
        constants = {
            "K": width, "ROWS": 4, "WIDE": wide, "EVEN": width % wide == 0,
            "BIAS": True, "RELU": True, "ADDED": True, "EARLY": early,
        }
        ptx = compiled(gemv._product, capability, constants)
        assert ".v4" in ptx, (capability, width)  # 16 bytes at a time
        assert ("griddepcontrol.wait" in ptx) == early
        if early:  # weights are asked for before
            before = ptx[: ptx.index("griddepcontrol.wait")]
            assert "ld.global" in before and "v4" in before, width
    for centred in (True, False):
        constants = {
            "K": 4096, "WIDE": 4096, "CENTRED": centred, "ROUNDED": not centred, "EARLY": early,
        }
        norm = compiled(gemv._norm, capability, constants)
        assert ("griddepcontrol.wait" in norm) == early
print("equal")
"""


@needs_triton
def test_products_and_norms_are_torchs() -> None:
    succeeds(_KERNELS)


@needs_triton
def test_passes_are_the_models_with_fewer_kernels() -> None:
    succeeds(_PASSES, "opt", "opt-350m", "llama", "gemma2", "gpt-neox", "gpt2")


@needs_triton
def test_weights_are_moved_before_anything_is_recorded() -> None:
    succeeds(_NEVER_WARMED_UP)


@needs_triton
def test_the_kernels_compile_for_gpus() -> None:
    succeeds(_COMPILED, interpreted=False)
