"""Requests through the engine's thread and steps: ends, limits, failures."""

import itertools
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from fromage_server.engine import (
    DuplicateRequest,
    Engine,
    EngineConfig,
    EngineStopped,
    Event,
    InvalidRequest,
    PromptTooLong,
    QueueFull,
    ScoringRequest,
    TokenEvent,
)
from fromage_weights.grounded import GroundedModel, ImageSegment, TextSegment
from fromage_weights.tokenizer import FromageTokenizer

from tests.server.engine.driving import Heard, answer, answers, drain, reply
from tests.server.engine.tiny import VISION_DIM, chain, generate, grounded, image, text


@pytest.fixture(scope="module")
def model() -> GroundedModel:
    return grounded("gpt2", tied=True)


@contextmanager
def running(model: GroundedModel, config: EngineConfig | None = None) -> Iterator[Engine]:
    engine = Engine(model, config)
    engine.start()
    try:
        yield engine
    finally:
        engine.stop()


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "nothing happened in 30 s"
        time.sleep(0.002)


# -- text and ends -----------------------------------------------------------------------------


def test_the_end_token_ends_the_reply() -> None:
    model = chain({"?": "Yes"})
    heard = answer(Engine(model), reply("a", (text(model, "?"),)))
    assert heard.text == "Yes"
    assert heard.ids[-1] in model.eos_token_ids
    assert heard.finish.reason == "stop"
    assert heard.finish.usage.completion_tokens == 4


@pytest.mark.parametrize("options", [{"ignore_eos": True}, {"compat": True, "stop": ("s",)}])
def test_going_on_after_the_end_token(options: dict[str, Any]) -> None:
    model = chain({"?": "Yes"})
    heard = answer(Engine(model), reply("a", (text(model, "?"),), max_tokens=6, **options))
    assert len(heard.ids) == 6
    assert heard.text.startswith("Yes")
    assert heard.finish.reason == "length"


def test_a_stop_string_across_tokens_is_cut_off() -> None:
    model = chain({"?": "The quick"})
    heard = answer(Engine(model), reply("a", (text(model, "?"),), stop=("zz", "e qu")))
    assert heard.text == "Th"
    assert heard.finish.reason == "stop"
    assert model.tokenizer.decode(heard.ids) == "The qu"


def test_what_was_held_back_comes_at_the_end() -> None:
    model = chain({"?": "The quick"})
    heard = answer(Engine(model), reply("a", (text(model, "?"),), 6, stop=("e quack",)))
    assert heard.text == "The qu"
    assert heard.finish.reason == "length"


def test_a_stop_string_in_the_last_token_allowed() -> None:
    model = chain({"?": "The quick"})
    heard = answer(Engine(model), reply("a", (text(model, "?"),), 6, stop=("qu",)))
    assert heard.text == "The "
    assert heard.finish.reason == "stop"


def test_characters_of_several_tokens() -> None:
    model = chain({"?": "a🐘!"})
    heard = answer(Engine(model), reply("a", (text(model, "?"),)))
    assert [event.text for event in heard.tokens] == ["a", "", "", "", "🐘", "!", ""]


def test_timings_and_usage(model: GroundedModel) -> None:
    heard = answer(Engine(model), reply("a", (text(model, "abc"), image(1)), 4, ignore_eos=True))
    usage, timings = heard.finish.usage, heard.finish.timings
    assert (usage.prompt_tokens, usage.completion_tokens) == (5, 4)
    assert timings.ttft_ms is not None
    assert 0 <= timings.queue_ms <= timings.ttft_ms <= timings.total_ms


# -- sampling ------------------------------------------------------------------------------------


def test_a_seed_gives_the_same_reply_alone_and_in_a_batch(model: GroundedModel) -> None:
    warm: dict[str, Any] = {"temperature": 1.0, "top_p": 0.9, "max_tokens": 12}

    def seeded(name: str, seed: int) -> Any:
        return reply(name, (text(model, "Once upon"),), seed=seed, **warm)

    alone = [answer(Engine(model), seeded("a", seed)).ids for seed in range(4)]
    assert len({tuple(ids) for ids in alone}) == 4
    others = [reply(str(i), (text(model, "x" * (i + 1)),), **warm) for i in range(3)]
    batch = [seeded(f"s{seed}", seed) for seed in range(4)]
    heard = answers(Engine(model), [*others, *batch], steps_between=1)
    assert [h.ids for h in heard[3:]] == alone


def test_without_a_seed_replies_differ(model: GroundedModel) -> None:
    requests = [
        reply(str(i), (text(model, "a"),), 12, temperature=2.0, ignore_eos=True) for i in range(4)
    ]
    assert len({tuple(h.ids) for h in answers(Engine(model), requests)}) > 1


def test_logprobs_come_with_their_tokens(model: GroundedModel) -> None:
    prompt = (text(model, "abc"),)
    heard = answer(Engine(model), reply("a", prompt, 5, logprobs=2))
    request = ScoringRequest("b", (*prompt, TextSegment(tuple(heard.ids))), score_from=3)
    scored = answer(Engine(model), request)
    found = []
    for event in heard.tokens:
        assert event.logprob is not None
        assert event.logprob.token_id == event.token_id == event.logprob.top[0][0]
        assert len(event.logprob.top) == 2
        found.append(event.logprob.logprob)
    assert found == pytest.approx(scored.score.logprobs, abs=1e-4)


# -- limits --------------------------------------------------------------------------------------


def test_a_prompt_that_cannot_fit_is_refused_with_the_numbers(model: GroundedModel) -> None:
    engine = Engine(model, EngineConfig(max_context=20))
    prompt = (text(model, "x" * 10), image(1))
    with pytest.raises(PromptTooLong, match="12 tokens and max_tokens is 9: together 21") as caught:
        engine.submit(reply("a", prompt, 9), Heard())
    error = caught.value
    assert (error.prompt_tokens, error.max_tokens, error.max_context) == (12, 9, 20)
    assert len(answer(engine, reply("b", prompt, 8, ignore_eos=True)).ids) == 8


def test_the_models_own_context_is_the_limit(model: GroundedModel) -> None:
    engine = Engine(model)
    with pytest.raises(PromptTooLong):
        engine.submit(reply("a", (text(model, "x" * 100),), 61), Heard())
    assert len(answer(engine, reply("b", (text(model, "x" * 100),), 60, ignore_eos=True)).ids) == 60


@pytest.mark.parametrize("family", ["opt", "gpt2"])
def test_the_last_position_of_the_context_serves_a_ret(family: str) -> None:
    """[RET] as the last token allowed is fed at the very last position."""
    model = grounded(family, tied=True)
    prompt = (text(model, "x" * (model.max_context - 1)),)
    heard = answer(Engine(model), reply("a", prompt, 1, ret_scale_factor=-1000.0))
    if heard.ids != [model.ret_token_id]:
        heard = answer(Engine(model), reply("b", prompt, 1, ret_scale_factor=1000.0))
    assert heard.ids == [model.ret_token_id]
    assert len(heard.rets) == 1


@pytest.mark.parametrize("segments", [(), (TextSegment(()),)])
def test_an_empty_prompt_is_refused(model: GroundedModel, segments: Any) -> None:
    with pytest.raises(InvalidRequest, match="at least one token or image"):
        Engine(model).submit(reply("a", segments), Heard())


@pytest.mark.parametrize(
    ("segment", "problem"),
    [
        (TextSegment((0, 100_000)), "token_ids is 100000; allowed: 0 to 257"),
        (TextSegment((-1,)), "token_ids is -1"),
        (ImageSegment(torch.zeros(VISION_DIM + 1)), "features is .13,."),
        (ImageSegment(torch.full((VISION_DIM,), torch.nan)), "not finite"),
    ],
)
def test_segments_the_model_cannot_take(model: GroundedModel, segment: Any, problem: str) -> None:
    with pytest.raises(InvalidRequest, match=problem):
        Engine(model).submit(reply("a", (segment,)), Heard())


def test_a_full_queue_refuses_and_recovers(model: GroundedModel) -> None:
    engine = Engine(model, EngineConfig(max_batch=2, max_queue=3))
    prompt = (text(model, "a"),)
    heard = [Heard() for _ in range(5)]
    for i, listener in enumerate(heard):
        engine.submit(reply(str(i), prompt, 3), listener)
    refused = Heard()
    with pytest.raises(QueueFull, match="3 requests are waiting"):
        engine.submit(reply("too many", prompt, 3), refused)
    engine.step()
    with pytest.raises(QueueFull):
        engine.submit(reply("still too many", prompt, 3), refused)
    drain(engine)
    assert all(h.finish for h in heard)
    assert refused.events == []
    assert answer(engine, reply("again", prompt, 3)).finish


def test_one_id_at_a_time(model: GroundedModel) -> None:
    engine = Engine(model)
    engine.submit(reply("a", (text(model, "a"),)), Heard())
    with pytest.raises(DuplicateRequest, match="'a'"):
        engine.submit(reply("a", (text(model, "b"),)), Heard())
    drain(engine)
    assert answer(engine, reply("a", (text(model, "a"),))).finish


@pytest.mark.parametrize(
    "options", [{"max_batch": 0}, {"max_queue": -1}, {"max_context": 0}, {"prefill_tokens": 0}]
)
def test_limits_that_make_no_sense(options: dict[str, int]) -> None:
    (field,) = options
    with pytest.raises(InvalidRequest, match=field):
        EngineConfig(**options)


# -- cancelling ----------------------------------------------------------------------------------


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


# -- failures ------------------------------------------------------------------------------------


def test_a_sequence_with_bad_numbers_fails_alone(model: GroundedModel) -> None:
    """Its features are finite, its soft tokens are not."""
    prompt = (text(model, "fine"),)
    with torch.inference_mode():
        expected = generate(model, prompt, 10)
    huge = ImageSegment(torch.full((VISION_DIM,), 1e38) * torch.tensor([1.0, -1.0] * 6))
    engine = Engine(model)
    requests = [reply("a", prompt, 10), reply("bad", (huge,), 10), reply("b", prompt, 10)]
    good, bad, other = answers(engine, requests, steps_between=2)
    assert good.ids == other.ids == expected
    assert "not finite" in bad.error
    assert bad.tokens == []
    bad_score = answer(engine, ScoringRequest("s", (text(model, "a"), huge, *prompt), (), 0))
    assert "not finite" in bad_score.error


def test_a_sequence_that_goes_bad_on_the_way_fails_alone() -> None:
    model = chain({"?": "abc", "!": "uvwxyz"})
    poisoned = model.tokenizer.encode("b")[0]
    embedding: Any = model.lm.get_input_embeddings()
    embedding.weight.data[poisoned] = torch.inf
    engine = Engine(model)
    requests = [reply(name, (text(model, end),)) for name, end in (("1", "!"), ("2", "?"))]
    requests.append(reply("3", (text(model, "long!"),)))
    fine, bad, late = answers(engine, requests, steps_between=1)
    assert fine.text == late.text == "uvwxyz"
    assert bad.text == "ab"
    assert "not finite" in bad.error
    again = answers(engine, [reply(str(i), (text(model, "!" * (i + 1)),)) for i in range(3)])
    assert [h.text for h in again] == ["uvwxyz"] * 3


class Fault:
    """Makes the language model raise for batches of a given size."""

    def __init__(self, model: GroundedModel, rows: int) -> None:
        self.rows = rows
        lm: Any = model.lm
        self.handle = lm.register_forward_pre_hook(self, with_kwargs=True)

    def __call__(self, module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        embeds = kwargs["inputs_embeds"]
        if embeds.shape[:2] == (self.rows, 1):
            raise RuntimeError("no such kernel")


def test_a_failing_step_ends_its_batch_and_not_the_engine(caplog: pytest.LogCaptureFixture) -> None:
    model = chain({"!": "uvwxyz"})
    fault = Fault(model, rows=2)
    prompt = (text(model, "so!"),)
    with running(model) as engine:
        heard = [Heard(), Heard()]
        for i, listener in enumerate(heard):
            engine.submit(reply(str(i), prompt), listener)
        wait_until(lambda: all(h.ended for h in heard))
        assert [h.error for h in heard] == ["the model failed: RuntimeError: no such kernel"] * 2
        assert engine.alive
        alone = Heard()
        engine.submit(reply("after", prompt), alone)
        wait_until(lambda: alone.ended)
        assert alone.text == "uvwxyz"
        assert engine.stats().counts.failed == 2
    fault.handle.remove()
    assert "no such kernel" in caplog.text


def test_a_failing_prefill_ends_only_its_own_request() -> None:
    model = chain({"!": "uvwxyz"})
    fault = Fault(model, rows=1)  # only the prompt of a single token has this shape in prefill
    engine = Engine(model)
    first, bad = Heard(), Heard()
    engine.submit(reply("long", (text(model, "so!"),), max_tokens=1), first)
    engine.submit(reply("short", (text(model, "!"),)), bad)
    drain(engine)
    fault.handle.remove()
    assert first.text == "u"
    assert "no such kernel" in bad.error


def test_text_that_cannot_be_decoded_ends_only_its_own_reply() -> None:
    class Stumbling(FromageTokenizer):
        def decode(self, ids: Sequence[int], skip_special: bool = True) -> str:
            text = super().decode(ids, skip_special)
            if "c" in text:
                raise ValueError("not my letter")
            return text

    model = chain({"?": "abcd", "!": "uvwxyz"})
    model.tokenizer = Stumbling(model.tokenizer.hf)
    requests = [reply("1", (text(model, "?"),)), reply("2", (text(model, "!"),))]
    bad, fine = answers(Engine(model), requests)
    assert bad.text == "ab"
    assert "not my letter" in bad.error
    assert fine.text == "uvwxyz"


def test_a_caller_that_fails_loses_only_its_own_request(model: GroundedModel) -> None:
    calls = itertools.count()

    def broken(event: Event) -> None:
        if next(calls) == 2:
            raise ValueError("caller's own fault")

    engine = Engine(model)
    prompt = (text(model, "abc"),)
    heard = Heard()
    engine.submit(reply("broken", prompt, 50, ignore_eos=True), broken)
    engine.submit(reply("fine", prompt, 10, ignore_eos=True), heard)
    drain(engine)
    assert len(heard.ids) == 10
    assert next(calls) <= 5
    assert engine.stats().running == 0


def test_when_the_thread_dies_everybody_hears_of_it(
    model: GroundedModel, caplog: pytest.LogCaptureFixture
) -> None:
    def deadly(event: Event) -> None:
        raise SystemExit("gone")

    engine = Engine(model, EngineConfig(max_batch=1))
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


# -- the thread ----------------------------------------------------------------------------------


def test_stop_ends_what_is_unfinished(model: GroundedModel) -> None:
    engine = Engine(model, EngineConfig(max_batch=1))
    assert not engine.alive
    engine.start()
    assert engine.alive
    heard = [Heard(), Heard()]
    for i, listener in enumerate(heard):
        engine.submit(reply(str(i), (text(model, "a"),), 150, ignore_eos=True), listener)
    wait_until(lambda: bool(heard[0].tokens))
    engine.stop()
    assert not engine.alive
    assert [h.error for h in heard] == ["the engine was stopped"] * 2
    with pytest.raises(EngineStopped):
        engine.submit(reply("late", (text(model, "a"),)), Heard())
    engine.stop()


def test_requests_from_many_threads(model: GroundedModel) -> None:
    """Every reply equals the one alone; every fifth is cancelled at its second token."""
    prompts = [(text(model, "word " * (i % 5 + 1)), image(i % 3)) for i in range(20)]
    with torch.inference_mode():
        expected = {(i % 5, i % 3): generate(model, p, 15) for i, p in enumerate(prompts[:15])}
    heard = [Heard() for _ in prompts]
    with running(model, EngineConfig(max_batch=6)) as engine:

        def use(i: int) -> None:
            def listen(event: Event) -> None:
                heard[i](event)
                if i % 5 == 0 and isinstance(event, TokenEvent) and len(heard[i].ids) == 2:
                    engine.cancel(str(i))

            engine.submit(reply(str(i), prompts[i], 15), listen)

        threads = [threading.Thread(target=use, args=(i,)) for i in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        wait_until(lambda: all(h.ended for h in heard))
        stats = engine.stats()
    for i, h in enumerate(heard):
        wanted = expected[i % 5, i % 3]
        assert h.ids == (wanted[:2] if i % 5 == 0 else wanted)
        assert (h.finish.reason == "cancelled") == (i % 5 == 0)
    assert (stats.running, stats.waiting) == (0, 0)
    assert stats.counts.finished + stats.counts.cancelled == 20
