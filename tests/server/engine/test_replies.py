"""Text, ends, seeds and log-probabilities of single replies."""

from typing import Any

import pytest

from fromage_server.engine import (
    Engine,
    ScoringRequest,
)
from fromage_weights.grounded import GroundedModel, TextSegment
from tests.server.engine.driving import Engines, answer, answers, reply
from tests.server.engine.tiny import chain, image, text


def test_the_end_token_ends_the_reply(engines: Engines) -> None:
    model = chain({"?": "Yes"})
    heard = answer(engines(model), reply("a", (text(model, "?"),)))
    assert heard.text == "Yes"
    assert heard.ids[-1] in model.eos_token_ids
    assert heard.finish.reason == "stop"
    assert heard.finish.usage.completion_tokens == 4


@pytest.mark.parametrize("options", [{"ignore_eos": True}, {"compat": True, "stop": ("s",)}])
def test_going_on_after_the_end_token(options: dict[str, Any], engines: Engines) -> None:
    model = chain({"?": "Yes"})
    heard = answer(engines(model), reply("a", (text(model, "?"),), max_tokens=6, **options))
    assert len(heard.ids) == 6
    assert heard.text.startswith("Yes")
    assert heard.finish.reason == "length"


def test_a_stop_string_across_tokens_is_cut_off(engines: Engines) -> None:
    model = chain({"?": "The quick"})
    heard = answer(engines(model), reply("a", (text(model, "?"),), stop=("zz", "e qu")))
    assert heard.text == "Th"
    assert heard.finish.reason == "stop"
    assert model.tokenizer.decode(heard.ids) == "The qu"


def test_what_was_held_back_comes_at_the_end(engines: Engines) -> None:
    model = chain({"?": "The quick"})
    heard = answer(engines(model), reply("a", (text(model, "?"),), 6, stop=("e quack",)))
    assert heard.text == "The qu"
    assert heard.finish.reason == "length"


def test_a_stop_string_in_the_last_token_allowed(engines: Engines) -> None:
    model = chain({"?": "The quick"})
    heard = answer(engines(model), reply("a", (text(model, "?"),), 6, stop=("qu",)))
    assert heard.text == "The "
    assert heard.finish.reason == "stop"


def test_characters_of_several_tokens(engines: Engines) -> None:
    model = chain({"?": "a🐘!"})
    heard = answer(engines(model), reply("a", (text(model, "?"),)))
    assert [event.text for event in heard.tokens] == ["a", "", "", "", "🐘", "!", ""]


def test_timings_and_usage(model: GroundedModel, engines: Engines) -> None:
    heard = answer(engines(model), reply("a", (text(model, "abc"), image(1)), 4, ignore_eos=True))
    usage, timings = heard.finish.usage, heard.finish.timings
    assert (usage.prompt_tokens, usage.completion_tokens) == (5, 4)
    assert timings.ttft_ms is not None
    assert 0 <= timings.queue_ms <= timings.ttft_ms <= timings.total_ms


def test_a_seed_gives_the_same_reply_alone_and_in_a_batch(
    model: GroundedModel, engines: Engines
) -> None:
    warm: dict[str, Any] = {"temperature": 1.0, "top_p": 0.9, "max_tokens": 12}

    def seeded(name: str, seed: int) -> Any:
        return reply(name, (text(model, "Once upon"),), seed=seed, **warm)

    alone = [answer(Engine(model), seeded("a", seed)).ids for seed in range(4)]
    assert len({tuple(ids) for ids in alone}) == 4
    others = [reply(str(i), (text(model, "x" * (i + 1)),), **warm) for i in range(3)]
    batch = [seeded(f"s{seed}", seed) for seed in range(4)]
    heard = answers(engines(model), [*others, *batch], steps_between=1)
    assert [h.ids for h in heard[3:]] == alone


def test_without_a_seed_replies_differ(model: GroundedModel, engines: Engines) -> None:
    requests = [
        reply(str(i), (text(model, "a"),), 12, temperature=2.0, ignore_eos=True) for i in range(4)
    ]
    assert len({tuple(h.ids) for h in answers(engines(model), requests)}) > 1


def test_logprobs_come_with_their_tokens(model: GroundedModel, engines: Engines) -> None:
    prompt = (text(model, "abc"),)
    heard = answer(engines(model), reply("a", prompt, 5, logprobs=2))
    request = ScoringRequest("b", (*prompt, TextSegment(tuple(heard.ids))), score_from=3)
    scored = answer(engines(model), request)
    found = []
    for event in heard.tokens:
        assert event.logprob is not None
        assert event.logprob.token_id == event.token_id == event.logprob.top[0][0]
        assert len(event.logprob.top) == 2
        found.append(event.logprob.logprob)
    assert found == pytest.approx(scored.score.logprobs, abs=1e-4)


def test_stop_strings_wait_for_the_least_length(engines: Engines) -> None:
    model = chain({"!": "aXbcYd"})
    prompt = (text(model, "so!"),)
    early, late = answers(
        engines(model),
        [
            reply("early", prompt, stop=("X", "Y")),
            reply("late", prompt, stop=("X", "Y"), min_word_tokens=3),
        ],
    )
    assert (early.text, late.text) == ("a", "aXbc")


def test_a_reply_that_would_end_with_its_picture_ends_without_one_too(engines: Engines) -> None:
    model = chain({"!": "ab◆cd"})
    prompt = (text(model, "so!"),)
    shown, bare = answers(
        engines(model),
        [
            reply("shown", prompt, stop_after_ret=True),
            reply("bare", prompt, stop_after_ret=True, max_num_rets=0),
        ],
    )
    assert (shown.text, bare.text) == ("ab", "ab")
    assert (len(shown.rets), len(bare.rets)) == (1, 0)
    assert shown.finish.reason == bare.finish.reason == "stop"
