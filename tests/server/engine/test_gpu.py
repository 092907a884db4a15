"""The engine on CUDA: recorded passes, paged kernels, steps launched ahead."""

import copy
import logging
import random
from functools import cache

import pytest
import torch

from fromage_server.engine import Engine, EngineConfig
from fromage_server.engine.delivery import Flight
from fromage_server.engine.scheduler import Plan
from fromage_weights.grounded import GroundedModel
from tests.server.engine.arrivals import engine_of, whatever_comes
from tests.server.engine.driving import Heard, answer, answers, drain, reply
from tests.server.engine.test_equals_generate import (
    EVERY_MODEL,
    expected_of,
    prompts_of,
    requests_of,
)
from tests.server.engine.test_rets import check
from tests.server.engine.tiny import grounded

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]


@cache
def on_gpu(family: str, tied: bool, dtype: torch.dtype = torch.float32) -> GroundedModel:
    model = grounded(family, tied)
    lm = torch.nn.Module.to(copy.deepcopy(model.lm), "cuda", dtype)
    return GroundedModel(lm, copy.deepcopy(model.mappers), model.tokenizer)


@EVERY_MODEL
def test_the_same_tokens_as_on_the_cpu(family: str, tied: bool) -> None:
    engine = Engine(on_gpu(family, tied), EngineConfig(max_batch=5, prefill_tokens=30))
    engine.warm_up()
    heard = answers(engine, requests_of(family, tied), steps_between=2)
    assert [h.ids for h in heard] == expected_of(family, tied)
    engine.check_idle()


@pytest.mark.parametrize("family", ["opt", "llama", "gpt2"])
def test_steps_are_recorded(family: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    engine = Engine(on_gpu(family, True), EngineConfig(max_batch=5))
    engine.warm_up()
    assert "not recorded" not in caplog.text
    assert "own modules" not in caplog.text, "one stream's steps have kernels of their own"


@pytest.mark.parametrize("family", ["opt", "llama", "mistral", "gemma2"])
@pytest.mark.parametrize("tokens", [12, 100])
def test_recorded_passes_with_prompts(
    family: str, tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prompts in pieces beside streams, and several in one step: no other pass is made."""
    engine = Engine(on_gpu(family, True), EngineConfig(max_batch=5, prefill_tokens=tokens))
    engine.warm_up()
    monkeypatch.setattr(engine._runner, "compute", None)
    heard = answers(engine, requests_of(family, True), steps_between=1)
    assert [h.ids for h in heard] == expected_of(family, True)
    engine.check_idle()


def test_whatever_comes_through_recorded_passes() -> None:
    engine = engine_of(Engine, on_gpu("opt", True), 5, max_batch=5, prefill_tokens=90)
    engine.warm_up()
    whatever_comes(grounded("opt", True), engine, random.Random(1))
    assert engine.stats().counts.preempted > 0


@pytest.mark.parametrize("family", ["opt", "llama", "mistral"])
def test_half_precision_in_a_batch_is_as_alone(family: str) -> None:
    """Whatever bfloat16 makes of a prompt, recorded or not, it is about the same: most of the
    first two tokens agree."""
    model = on_gpu(family, True, torch.bfloat16)
    requests = requests_of(family, True)
    plain = answers(Engine(model, graphs=False, ahead=False), requests)
    recorded = Engine(model)
    recorded.warm_up()
    fast = answers(recorded, requests, steps_between=1)
    agreeing = sum(a.ids[:2] == b.ids[:2] for a, b in zip(plain, fast, strict=True))
    assert agreeing >= len(requests) - 2


def test_queries_of_a_recorded_pass() -> None:
    model = grounded("opt", True)
    found = 0
    engine = Engine(on_gpu("opt", True))
    for i, prompt in enumerate(prompts_of("opt", True)[:2]):
        request = reply(str(i), prompt, 12, ret_scale_factor=30.0)
        found += check(model, request, answer(engine, request))
    assert found > 0


def test_a_step_is_launched_without_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(on_gpu("opt", True, torch.bfloat16), EngineConfig(max_batch=4))
    engine.warm_up()
    warm = {"temperature": 0.8, "top_p": 0.9, "min_word_tokens": 40, "max_num_rets": 1}
    for i, prompt in enumerate(prompts_of("opt", True)[:3]):
        engine.submit(reply(str(i), prompt, 30, ignore_eos=True, **warm), Heard())
    for _ in range(5):
        engine.step()
    launch = engine._launch

    def strictly(plan: Plan) -> Flight:
        torch.cuda.set_sync_debug_mode("error")
        try:
            return launch(plan)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    monkeypatch.setattr(engine, "_launch", strictly)
    engine.submit(reply("late", prompts_of("opt", True)[3], 9), Heard())  # one more prompt
    for _ in range(5):
        engine.step()
    monkeypatch.undo()
    drain(engine)
    assert engine.stats().counts.failed == 0
