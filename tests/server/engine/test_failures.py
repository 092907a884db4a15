"""One request's failure is its own; the engine's own failure is told to everybody."""

import itertools
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from fromage_server.engine import (
    EngineConfig,
    EngineStopped,
    Event,
    ScoringRequest,
)
from fromage_weights.grounded import GroundedModel, ImageSegment
from fromage_weights.tokenizer import FromageTokenizer
from tests.server.engine.driving import (
    Engines,
    Heard,
    answer,
    answers,
    drain,
    reply,
    running,
    wait_until,
)
from tests.server.engine.tiny import VISION_DIM, chain, generate, text


def test_a_sequence_with_bad_numbers_fails_alone(model: GroundedModel, engines: Engines) -> None:
    """Its features are finite, its soft tokens are not."""
    prompt = (text(model, "fine"),)
    with torch.inference_mode():
        expected = generate(model, prompt, 10)
    huge = ImageSegment(torch.full((VISION_DIM,), 1e38) * torch.tensor([1.0, -1.0] * 6))
    engine = engines(model)
    requests = [reply("a", prompt, 10), reply("bad", (huge,), 10), reply("b", prompt, 10)]
    good, bad, other = answers(engine, requests, steps_between=2)
    assert good.ids == other.ids == expected
    assert "not finite" in bad.error
    assert bad.tokens == []
    bad_score = answer(engine, ScoringRequest("s", (text(model, "a"), huge, *prompt), (), 0))
    assert "not finite" in bad_score.error


def test_a_sequence_that_goes_bad_on_the_way_fails_alone(engines: Engines) -> None:
    """The last one comes into the slot of the one that failed, while the first still runs."""
    model = chain({"?": "abc", "!": "uvwxyzUVWXYZ"})
    poisoned = model.tokenizer.encode("b")[0]
    embedding: Any = model.lm.get_input_embeddings()
    embedding.weight.data[poisoned] = torch.inf
    requests = [reply(str(i), (text(model, end),)) for i, end in enumerate("!?!")]
    fine, bad, late = answers(engines(model), requests, steps_between=3)
    assert fine.text == late.text == "uvwxyzUVWXYZ"
    assert bad.text == "ab"
    assert "not finite" in bad.error


class Fault:
    """Makes the language model raise for steps of given numbers of tokens."""

    def __init__(self, model: GroundedModel, *tokens: int) -> None:
        self.tokens = tokens
        self.raised = 0
        lm: Any = model.lm
        self.handle = lm.register_forward_pre_hook(self, with_kwargs=True)

    def __call__(self, module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        if kwargs["inputs_embeds"].shape[1] in self.tokens:
            self.raised += 1
            raise RuntimeError("no such kernel")


def test_a_step_that_fails_is_tried_again_one_by_one(
    caplog: pytest.LogCaptureFixture, engines: Engines
) -> None:
    """Two streams together are too much for this model, each alone is not."""
    model = chain({"!": "uvwxyz"})
    fault = Fault(model, 2)
    heard = answers(engines(model), [reply(str(i), (text(model, "so!"),)) for i in range(2)])
    fault.handle.remove()
    assert [h.text for h in heard] == ["uvwxyz"] * 2
    assert fault.raised > 1
    assert "no such kernel" not in caplog.text


def test_a_failing_step_ends_its_sequence_and_not_the_engine(
    caplog: pytest.LogCaptureFixture, engines: Engines
) -> None:
    model = chain({"!": "uvwxyz"})
    fault = Fault(model, 1)
    engine = engines(model)
    with running(engine):
        heard = Heard()
        engine.submit(reply("bad", (text(model, "so!"),)), heard)
        wait_until(lambda: heard.ended)
        assert heard.error == "the model failed: RuntimeError: no such kernel"
        assert engine.alive
        fault.handle.remove()
        after = Heard()
        engine.submit(reply("after", (text(model, "so!"),)), after)
        wait_until(lambda: after.ended)
        assert after.text == "uvwxyz"
        assert engine.stats().counts.failed == 1
    assert "no such kernel" in caplog.text


def test_a_failing_prefill_ends_only_its_own_request(engines: Engines) -> None:
    model = chain({"!": "uvwxyz"})
    fault = Fault(model, 4, 5)  # alone, and with the other's next token
    engine = engines(model)
    first, bad = Heard(), Heard()
    engine.submit(reply("first", (text(model, "so!"),)), first)
    engine.step()
    engine.submit(reply("bad", (text(model, "and!"),)), bad)
    drain(engine)
    fault.handle.remove()
    assert first.text == "uvwxyz"
    assert "no such kernel" in bad.error


def test_text_that_cannot_be_decoded_ends_only_its_own_reply(engines: Engines) -> None:
    class Stumbling(FromageTokenizer):
        def decode(self, ids: Sequence[int], skip_special: bool = True) -> str:
            text = super().decode(ids, skip_special)
            if "c" in text:
                raise ValueError("not my letter")
            return text

    model = chain({"?": "abcd", "!": "uvwxyz"})
    model.tokenizer = Stumbling(model.tokenizer.hf)
    requests = [reply("1", (text(model, "?"),)), reply("2", (text(model, "!"),))]
    bad, fine = answers(engines(model), requests)
    assert bad.text == "ab"
    assert "not my letter" in bad.error
    assert fine.text == "uvwxyz"


def test_a_caller_that_fails_loses_only_its_own_request(
    model: GroundedModel, engines: Engines
) -> None:
    calls = itertools.count()

    def broken(event: Event) -> None:
        if next(calls) == 2:
            raise ValueError("caller's own fault")

    engine = engines(model)
    prompt = (text(model, "abc"),)
    heard = Heard()
    engine.submit(reply("broken", prompt, 50, ignore_eos=True), broken)
    engine.submit(reply("fine", prompt, 10, ignore_eos=True), heard)
    drain(engine)
    assert len(heard.ids) == 10
    assert next(calls) <= 5
    assert engine.stats().running == 0


def test_when_the_thread_dies_everybody_hears_of_it(
    model: GroundedModel, caplog: pytest.LogCaptureFixture, engines: Engines
) -> None:
    def deadly(event: Event) -> None:
        raise SystemExit("gone")

    engine = engines(model, EngineConfig(max_batch=1))
    heard = [Heard() for _ in range(3)]
    prompt = (text(model, "abc"),)
    engine.submit(reply("deadly", prompt), deadly)
    for i, listener in enumerate(heard):
        engine.submit(reply(str(i), prompt), listener)
    engine.start()
    wait_until(lambda: all(h.ended for h in heard))
    assert not engine.alive
    assert all("the engine has failed: SystemExit: gone" in h.error for h in heard)
    with pytest.raises(EngineStopped, match="SystemExit: gone"):
        engine.submit(reply("late", prompt), Heard())
    assert "has died" in caplog.text


def test_when_the_thread_dies_started_jobs_without_a_slot_hear_of_it(
    model: GroundedModel, monkeypatch: pytest.MonkeyPatch, engines: Engines
) -> None:
    """Scoring and prompts of which nothing is generated are over within their step."""

    def lost(*_: object, **__: object) -> None:
        raise SystemExit("the device is lost")

    engine = engines(model)
    prompt = (text(model, "abc"),)
    heard = [Heard() for _ in range(3)]
    for i, listener in enumerate(heard[:2]):
        engine.submit(ScoringRequest(str(i), prompt, (), 0), listener)
    engine.submit(reply("nothing", prompt, max_tokens=0), heard[2])
    monkeypatch.setattr(engine._runner, "run", lost)
    engine.start()
    wait_until(lambda: not engine.alive)
    engine.stop()
    assert all("the device is lost" in listener.error for listener in heard)
