"""The engine on CUDA: recorded passes, paged kernels, steps launched ahead."""

import copy
from functools import cache

import pytest
import torch

from fromage_server.engine import Engine, EngineConfig
from fromage_weights.grounded import GroundedModel
from tests.server.engine.driving import answer, answers, reply
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
def test_decode_steps_are_recorded(family: str, caplog: pytest.LogCaptureFixture) -> None:
    engine = Engine(on_gpu(family, True), EngineConfig(max_batch=5))
    engine.warm_up()
    assert "not recorded" not in caplog.text


@pytest.mark.parametrize("family", ["opt", "llama", "mistral"])
def test_half_precision_in_a_batch_is_as_alone(family: str) -> None:
    """Whatever bfloat16 makes of a prompt, recorded or not, it is about the same: most first
    tokens agree, where nothing has drifted yet."""
    model = on_gpu(family, True, torch.bfloat16)
    requests = requests_of(family, True)
    plain = answers(Engine(model, graphs=False, ahead=False), requests)
    fast = answers(Engine(model), requests, steps_between=1)
    agreeing = sum(a.ids[0] == b.ids[0] for a, b in zip(plain, fast, strict=True))
    assert agreeing >= len(requests) - 1


def test_queries_of_a_recorded_pass() -> None:
    model = grounded("opt", True)
    found = 0
    engine = Engine(on_gpu("opt", True))
    for i, prompt in enumerate(prompts_of("opt", True)[:2]):
        request = reply(str(i), prompt, 12, ret_scale_factor=30.0)
        found += check(model, request, answer(engine, request))
    assert found > 0
