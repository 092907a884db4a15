"""``deterministic``: the same numbers, to the last bit, whatever else runs."""

import pytest

from fromage_server.engine import Engine, EngineConfig, GenerationRequest
from tests.server.engine.arrivals import engine_of
from tests.server.engine.driving import Heard, answers, drain, reply
from tests.server.engine.test_equals_generate import expected_of, requests_of
from tests.server.engine.test_packing import packed
from tests.server.engine.tiny import grounded, text

LOGPROBS = 3


def told(heard: Heard) -> list[object]:
    """Tokens with their log-probabilities, and queries."""
    queries = [ret.query.tobytes() for ret in heard.rets]
    return [*((token.token_id, token.logprob) for token in heard.tokens), *queries]


@pytest.mark.parametrize("family", ["opt", "mistral", "gemma2"])
def test_alone_and_among_others(family: str) -> None:
    model, _ = packed(family, True)

    def wanted(name: str) -> GenerationRequest:
        prompt = (text(model, "A long story begins here. " * 4),)
        return reply(name, prompt, 30, logprobs=LOGPROBS, temperature=0.7, seed=5)

    config = EngineConfig(max_batch=6, deterministic=True)
    alone = answers(Engine(model, config), [wanted("alone")])[0]
    engine = Engine(model, config)
    others = requests_of(family, True)
    for i, request in enumerate(others[:5]):
        engine.submit(request, Heard())
        for _ in range(i):
            engine.step()
    heard = Heard()
    engine.submit(wanted("among"), heard)
    drain(engine)
    assert told(heard) == told(alone)


def test_although_it_was_preempted() -> None:
    model = grounded("llama", True)
    prompts = [(text(model, f"{letter} " * 10),) for letter in "ab"]
    roomy = engine_of(Engine, model, 40, max_batch=2, deterministic=True)
    requests = [reply(str(i), p, 40, logprobs=LOGPROBS) for i, p in enumerate(prompts)]
    expected = answers(roomy, requests)
    narrow = engine_of(Engine, model, 6, max_batch=2, deterministic=True)
    heard = answers(narrow, requests)
    assert narrow.stats().counts.preempted > 0
    assert [told(h) for h in heard] == [told(e) for e in expected]


def test_it_is_still_the_same_model() -> None:
    engine = Engine(grounded("qwen3", True), EngineConfig(deterministic=True))
    heard = answers(engine, requests_of("qwen3", True), steps_between=1)
    assert [h.ids for h in heard] == expected_of("qwen3", True)
    engine.check_idle()
