"""Cancelled requests leave nothing behind."""

import torch

from fromage_server.engine import (
    Engine,
    EngineConfig,
)
from fromage_weights.grounded import GroundedModel
from tests.server.engine.driving import Heard, drain, reply
from tests.server.engine.tiny import generate, text


def test_cancel_frees_the_slot_within_one_step(model: GroundedModel) -> None:
    engine = Engine(model, EngineConfig(max_batch=1))
    first, second = Heard(), Heard()
    prompt = (text(model, "a long story"),)
    engine.submit(reply("first", prompt, 100, ignore_eos=True), first)
    engine.submit(reply("second", prompt, 5, ignore_eos=True), second)
    for _ in range(4):
        engine.step()
    assert second.events == []
    engine.cancel("first")
    engine.step()
    assert first.finish.reason == "cancelled"
    assert first.finish.usage.completion_tokens == len(first.ids) == 4
    assert len(second.ids) == 1
    drain(engine)
    with torch.inference_mode():
        assert second.ids == generate(model, prompt, 5)
    assert engine.stats().counts.cancelled == 1


def test_cancel_in_the_middle_of_a_batch_leaves_the_others_as_they_were(
    model: GroundedModel,
) -> None:
    prompts = [(text(model, "ab" * (i + 1)),) for i in range(4)]
    with torch.inference_mode():
        expected = [generate(model, prompt, 20) for prompt in prompts]
    engine = Engine(model)
    heard = [Heard() for _ in prompts]
    for i, (prompt, listener) in enumerate(zip(prompts, heard, strict=True)):
        engine.submit(reply(str(i), prompt, 20), listener)
    for _ in range(5):
        engine.step()
    engine.cancel("1")
    drain(engine)
    assert heard[1].ids == expected[1][:5]
    assert [heard[i].ids for i in (0, 2, 3)] == [expected[i] for i in (0, 2, 3)]


def test_cancel_while_waiting_and_for_unknown_ids(model: GroundedModel) -> None:
    engine = Engine(model)
    heard = Heard()
    engine.submit(reply("a", (text(model, "a"),)), heard)
    engine.cancel("a")
    engine.cancel("nobody")
    drain(engine)
    assert heard.tokens == []
    assert heard.finish.reason == "cancelled"
    engine.cancel("a")
    assert engine.step() is False
    assert len(heard.events) == 1
