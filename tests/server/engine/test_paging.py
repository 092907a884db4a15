"""The same replies when blocks are few, prompts come in pieces and beginnings are known already."""

import random
from dataclasses import replace

import pytest
import torch

from fromage_server.engine import EngineConfig, FinishEvent, PromptTooLong, ScoringRequest
from fromage_server.engine.attention import BLOCK_SIZE
from fromage_weights.grounded import GroundedModel, ImageSegment, Segment
from tests.server.engine.arrivals import engine_of, whatever_comes
from tests.server.engine.driving import Engines, Heard, answer, answers, drain, reply
from tests.server.engine.test_equals_generate import (
    EVERY_MODEL,
    expected_of,
    requests_of,
)
from tests.server.engine.tiny import VISION_DIM, generate, grounded, image, text


@EVERY_MODEL
def test_few_blocks_and_small_pieces(family: str, tied: bool, engines: Engines) -> None:
    """Six blocks for eight requests of up to six: somebody always has to give way."""
    engine = engine_of(engines, grounded(family, tied), blocks=6, prefill_tokens=7)
    heard = answers(engine, requests_of(family, tied), steps_between=1)
    assert [h.ids for h in heard] == expected_of(family, tied)
    assert engine.stats().counts.preempted > 0
    engine.check_idle()


@EVERY_MODEL
def test_a_known_beginning_is_not_computed_again(family: str, tied: bool, engines: Engines) -> None:
    engine = engines(grounded(family, tied), EngineConfig(prefill_tokens=9))
    requests = requests_of(family, tied)
    assert [h.ids for h in answers(engine, requests)] == expected_of(family, tied)
    again = answers(engine, [replace(request, id=f"{request.id}+") for request in requests])
    assert [h.ids for h in again] == expected_of(family, tied)
    cached = [h.finish.usage.cached_tokens for h in again]
    lengths = [h.finish.usage.prompt_tokens for h in again]
    assert cached == [(length - 1) // BLOCK_SIZE * BLOCK_SIZE for length in lengths]


def test_the_next_turn_computes_only_what_is_new(model: GroundedModel, engines: Engines) -> None:
    """The history, images and the model's own reply included, is known."""
    engine = engines(model)
    first: tuple[Segment, ...] = (text(model, "Look: "), image(1), text(model, " and speak."))
    said = answer(engine, reply("1", first, 40, ignore_eos=True))
    history = [*first, replace(text(model, ""), token_ids=tuple(said.ids)), text(model, " More?")]
    before = engine.stats().counts.prompt_tokens
    turn = answer(engine, reply("2", tuple(history), 10))
    usage = turn.finish.usage
    known = (usage.prompt_tokens - 6 - 1) // BLOCK_SIZE * BLOCK_SIZE
    assert usage.cached_tokens == known > 0
    assert engine.stats().counts.prompt_tokens - before == usage.prompt_tokens - known
    assert engine.stats().counts.cached_tokens == known
    with torch.inference_mode():
        assert turn.ids == generate(model, tuple(history), 10)


def test_another_image_is_another_prompt(model: GroundedModel, engines: Engines) -> None:
    engine = engines(model)
    tail = text(model, " is what I see in front of me, is it not?")
    with torch.inference_mode():
        expected = [generate(model, (image(i), tail), 8) for i in range(2)]
    for i in range(2):
        heard = answer(engine, reply(str(i), (image(i), tail), 8))
        assert heard.ids == expected[i]
        assert heard.finish.usage.cached_tokens == 0


def test_equal_keys_stand_for_equal_features(model: GroundedModel, engines: Engines) -> None:
    engine = engines(model)
    tail = text(model, " is what I see in front of me, is it not?")
    images = [replace(image(3), key=key) for key in (b"a", b"b", b"a")]
    heard = [answer(engine, reply(str(i), (one, tail), 3)) for i, one in enumerate(images)]
    assert [h.finish.usage.cached_tokens > 0 for h in heard] == [False, False, True]


def test_prompt_rets_are_read_although_their_prompt_is_known(
    model: GroundedModel, engines: Engines
) -> None:
    engine = engines(model)
    prompt = (text(model, "x" * 50),)
    for name in "ab":
        heard = answer(engine, reply(name, prompt, 0, prompt_ret_positions=(20, 45)))
        assert [ret.token_index for ret in heard.rets] == [20, 45]
    fresh = answer(engines(model), reply("c", prompt, 0, prompt_ret_positions=(20, 45)))
    for known, new in zip(heard.rets, fresh.rets, strict=True):
        assert known.query == pytest.approx(new.query, abs=1e-5)
    assert heard.finish.usage.cached_tokens == BLOCK_SIZE


def test_scores_of_a_known_prompt_in_pieces(model: GroundedModel, engines: Engines) -> None:
    prompt = (text(model, "a long prompt, the same for all candidates: "), image(2))
    request = ScoringRequest("1", (*prompt, text(model, "yes")), (46, 3), 40)
    whole = answer(engines(model), request).score
    engine = engines(model, EngineConfig(prefill_tokens=5))
    for name in "ab":
        piecewise = answer(engine, replace(request, id=name)).score
        assert piecewise.positions == whole.positions
        assert piecewise.logprobs == pytest.approx(whole.logprobs, abs=1e-4)
        assert piecewise.queries == pytest.approx(whole.queries, abs=1e-5)


def test_scoring_that_gave_way_tells_everything_once(
    model: GroundedModel, engines: Engines
) -> None:
    request = ScoringRequest("score", (text(model, "y" * 40),), (), 0)
    whole = answer(engines(model), request).score
    engine = engine_of(engines, model, blocks=5, prefill_tokens=2)
    stream, score = Heard(), Heard()
    engine.submit(reply("stream", (text(model, "ab"),), 60, ignore_eos=True), stream)
    for _ in range(13):
        engine.step()
    engine.submit(request, score)
    drain(engine)
    assert engine.stats().counts.preempted == 1
    assert score.score.positions == whole.positions
    assert score.score.logprobs == pytest.approx(whole.logprobs, abs=1e-4)
    assert len(stream.ids) == 60
    engine.check_idle()


def test_what_can_never_fit_is_refused_with_the_numbers(
    model: GroundedModel, engines: Engines
) -> None:
    engine = engine_of(engines, model, blocks=3)
    assert engine.max_context == 48
    with pytest.raises(PromptTooLong, match="together 49, the context holds 48"):
        engine.submit(reply("a", (text(model, "x" * 40),), 9), Heard())
    assert len(answer(engine, reply("b", (text(model, "x" * 40),), 8, ignore_eos=True)).ids) == 8


def test_a_failed_prompt_is_not_found_again(model: GroundedModel, engines: Engines) -> None:
    engine = engines(model)
    huge = ImageSegment(torch.full((VISION_DIM,), 1e38) * torch.tensor([1.0, -1.0] * 6))
    prompt = (text(model, "z" * 40), huge)
    for name in "ab":
        assert "not finite" in answer(engine, reply(name, prompt)).error
    assert engine.stats().counts.cached_tokens == 0
    engine.check_idle()


def test_cancelled_in_the_middle_of_its_prompt(model: GroundedModel, engines: Engines) -> None:
    engine = engines(model, EngineConfig(prefill_tokens=4))
    heard = Heard()
    engine.submit(reply("a", (text(model, "x" * 40),)), heard)
    engine.step()
    engine.cancel("a")
    drain(engine)
    assert isinstance(heard.events[-1], FinishEvent)
    assert heard.finish.reason == "cancelled"
    engine.check_idle()


@pytest.mark.parametrize("family", ["opt", "llama", "mistral"])
@pytest.mark.parametrize(
    "seed", [0, 1, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(2, 6))]
)
def test_whatever_comes(family: str, seed: int, engines: Engines) -> None:
    rng = random.Random(f"{family} {seed}")
    model = grounded(family, tied=True)
    engine = engine_of(
        engines,
        model,
        rng.randint(7, 20),
        max_batch=rng.randint(1, 6),
        prefill_tokens=rng.randint(1, 40),
    )
    whatever_comes(model, engine, rng)


def test_a_step_is_measured_by_what_it_computed(
    model: GroundedModel, engines: Engines, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not by the plan of the one that was launched meanwhile."""
    engine = engines(model, EngineConfig(prefill_tokens=10))
    told: list[tuple[int, int]] = []
    monkeypatch.setattr(
        engine._pace,
        "measured",
        lambda seconds, decoding, prefilled: told.append((decoding, prefilled)),
    )
    answers(engine, [reply("a", (text(model, "x" * 25),), 4, ignore_eos=True)])
    assert told == [(0, 10), (0, 10), (0, 5), (1, 0), (1, 0), (1, 0)]
    engine.check_idle()
