"""What is refused at once, and with which words."""

from pathlib import Path
from typing import Any

import pytest
import torch

from fromage_server.engine import (
    DuplicateRequest,
    Engine,
    EngineConfig,
    InvalidRequest,
    PromptTooLong,
    QueueFull,
    memory,
)
from fromage_weights.grounded import GroundedModel, ImageSegment, TextSegment
from tests.server.engine.driving import Heard, answer, drain, reply
from tests.server.engine.tiny import VISION_DIM, grounded, image, text


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
def test_limits_that_make_no_sense(options: dict[str, Any]) -> None:
    (field,) = options
    with pytest.raises(InvalidRequest, match=field):
        EngineConfig(**options)


def test_memory_that_a_container_leaves(tmp_path: Path) -> None:
    (tmp_path / "memory.max").write_text("1000\n")
    (tmp_path / "memory.current").write_text("700\n")
    (tmp_path / "memory.stat").write_text("anon 500\ninactive_file 150\n")
    assert memory._left_to_container(tmp_path) == 450
    (tmp_path / "memory.max").write_text("max\n")
    assert memory._left_to_container(tmp_path) > 1 << 50
    assert memory._left_to_container(tmp_path / "none") > 1 << 50


def test_warming_up_stays_within_the_context() -> None:
    model = grounded("opt", True)
    engine = Engine(model)
    engine.warm_up(4 * model.max_context)
    engine.warm_up()
    engine.check_idle()
