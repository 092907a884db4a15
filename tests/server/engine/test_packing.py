"""Rearranged weights compute the same."""

import copy
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from fromage_server.engine import Engine, layouts, packing
from fromage_server.engine.few_rows import FewRows, few_rows, kernel
from fromage_server.engine.packing import pack_linears
from fromage_weights.grounded import GroundedModel, TextSegment
from fromage_weights.loading import load_grounded_model
from fromage_weights.quantization import Quantization
from tests.server.engine.compiling import skip_without_compiler
from tests.server.engine.driving import answers
from tests.server.engine.test_equals_generate import EVERY_MODEL, expected_of, requests_of
from tests.server.engine.tiny import grounded
from tests.weights.tiny_bundle import write_bundle


def packed(family: str, tied: bool, spare: int = 0) -> tuple[GroundedModel, int]:
    original = grounded(family, tied)
    lm = copy.deepcopy(original.lm)
    model = GroundedModel(lm, copy.deepcopy(original.mappers), original.tokenizer)
    return model, pack_linears(lm, spare)


@EVERY_MODEL
def test_the_same_tokens(family: str, tied: bool) -> None:
    model, layers = packed(family, tied)
    assert layers > 3
    heard = answers(Engine(model), requests_of(family, tied), steps_between=2)
    assert [h.ids for h in heard] == expected_of(family, tied)


@pytest.mark.parametrize("tied", [True, False])
def test_only_embeddings_keep_their_weights(tied: bool) -> None:
    model, layers = packed("llama", tied)
    left = sum(p.numel() for n, p in model.lm.named_parameters() if "norm" not in n)
    assert left == model.vocab_size * 32
    assert layers == 3 * 7 + 1


@pytest.mark.parametrize("few", [few_rows, functional.linear], ids=["own", "torch"])
@pytest.mark.parametrize("most", [0, 1, 2])
@pytest.mark.parametrize("family", ["opt", "gpt2", "llama"])
def test_a_few_rows_take_what_is_faster(
    family: str, most: int, few: FewRows, monkeypatch: pytest.MonkeyPatch
) -> None:
    if few is few_rows:
        skip_without_compiler(kernel(torch.float32))
    monkeypatch.setattr(packing, "kernel", lambda dtype: few)
    monkeypatch.setattr(packing, "_most_rows", lambda few, layers: most)
    model, layers = packed(family, tied=True, spare=1 << 30)
    forwards = [m.forward for m in model.lm.modules() if isinstance(m.forward, partial)]
    assert len(forwards) == layers
    found = {f.args[3:] if f.func is packing.product_or_few else () for f in forwards}
    assert found == {(few, most) if most else ()}
    heard = answers(Engine(model), requests_of(family, True), steps_between=2)
    assert [h.ids for h in heard] == expected_of(family, True)


def test_originals_are_kept_only_where_there_is_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tied head's weight is there anyway."""
    monkeypatch.setattr(packing, "_most_rows", lambda few, layers: 1)
    original = grounded("llama", True)
    linear = sum(p.nbytes for n, p in original.lm.named_parameters() if "proj" in n)
    for spare, rows in ((linear, True), (linear - 1, False)):
        model, _ = packed("llama", tied=True, spare=spare)
        lm: Any = model.lm
        assert lm.lm_head.forward.func is packing.product_or_few
        inner = [m.forward for m in lm.model.modules() if isinstance(m.forward, partial)]
        assert {f.func is packing.product_or_few for f in inner} == {rows}


@pytest.mark.parametrize("wins_up_to", [0, 1, 4, 16])
def test_both_ways_are_tried(wins_up_to: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that only the products move."""
    lm = copy.deepcopy(grounded("opt", tied=False).lm)
    modules: list[Any] = [m for m in lm.modules() if packing._is_linear(m)]
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])

    def few(x: Tensor, *_: object) -> Tensor:
        now[0] += 1.0 if len(x) <= wins_up_to else 2.0
        return x

    def rearranged(x: Tensor) -> Tensor:
        now[0] += 2.0
        return x

    layers = [packing._packed(module, lambda stored, bias: rearranged) for module in modules]
    assert packing._most_rows(few, layers) == wins_up_to


def test_a_tied_head_is_tried_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """With room for a second layout or without, where the others do not win by it."""
    monkeypatch.setattr(packing, "_most_rows", lambda few, layers: 2 * (len(layers) == 1))
    for spare in (0, 1 << 30):
        model, _ = packed("opt", tied=True, spare=spare)
        lm: Any = model.lm
        assert lm.lm_head.forward.func is packing.product_or_few
        assert lm.lm_head.forward.args[4] == 2
        usual = {layouts.by_onednn, layouts.by_panels}
        assert lm.model.decoder.layers[0].fc1.forward.func in usual


def test_a_head_is_tried_however_large(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[int] = []

    def few(x: Tensor, *_: object) -> Tensor:
        tried.append(len(x))
        return x

    monkeypatch.setattr(packing, "_ENOUGH", 1000)
    lm: Any = copy.deepcopy(grounded("opt", tied=True).lm)
    layer = packing._packed(lm.lm_head, layouts.as_stored)
    packing._most_rows(few, [layer])
    assert tried


def test_nothing_is_tried_where_products_are_to_stay_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def clock() -> float:
        raise AssertionError("it has looked at the clock")

    monkeypatch.setattr(time, "perf_counter", clock)
    lm: Any = copy.deepcopy(grounded("opt", tied=True).lm)
    first = layouts.layouts_for(torch.float32)[0](torch.ones(2, 2), None)
    assert pack_linears(lm, 1 << 30, by_trial=False) == 3 * 6 + 1
    inner = [m.forward for m in lm.modules() if isinstance(m.forward, partial)]
    assert {f.func for f in inner} == {first.func}  # type: ignore[attr-defined]


def test_other_numbers_are_left_as_they_are() -> None:
    lm = copy.deepcopy(grounded("opt", tied=True).lm)
    assert pack_linears(torch.nn.Module.to(lm, torch.float64)) == 0


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize(("quantize", "layers"), [("int8", 2 * 7 + 1), ("int4", 1)])
def test_quantized_layers(tmp_path: Path, quantize: Quantization, layers: int, dtype: str) -> None:
    """The head is packed as ever, where there are kernels; int8 computes the same for few rows and
    for many, and int4 is left alone."""
    pytest.importorskip("torchao")
    pytest.importorskip("bitsandbytes")
    bundle = write_bundle(tmp_path, width=64)
    model = load_grounded_model(
        bundle.path, device="cpu", dtype=dtype, quantize=quantize, vision=False
    ).model
    prompts = [model.embed([TextSegment(tuple(range(n)))])[None] for n in (3, 16, 17, 33)]
    with torch.inference_mode():
        expected = [model.forward(prompt).logits for prompt in prompts]
        assert pack_linears(model.lm) == layers - (dtype == "float16")
        for _ in range(2):  # the scratch memory is used again
            found = [model.forward(prompt).logits for prompt in prompts]
    for one, other in zip(found, expected, strict=True):
        assert (one - other).norm() / other.norm() < 0.05
