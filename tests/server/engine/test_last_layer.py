"""Which tokens the last layer is computed for; that the numbers are the same, the other tests of
the engine show."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from torch import nn

from fromage_server.engine import Engine, EngineConfig, ScoringRequest
from fromage_weights.grounded import GroundedModel
from fromage_weights.mappers import Mappers
from tests.server.engine.driving import answer, answers, reply
from tests.server.engine.tiny import FAMILIES, VISION_DIM, generate, grounded, text

PROMPT = "Once there was a cat that sat on a mat and slept."
# The product behind the activation; GPT-2's attention has one of that name, too, before it.
FEED = ("fc2", "c_proj", "dense_4h_to_h", "down_proj")


@pytest.fixture(scope="module")
def model() -> GroundedModel:
    return grounded("llama", tied=True)


def layers_of(model: GroundedModel) -> Any:
    (found,) = (m for m in model.lm.modules() if isinstance(m, nn.ModuleList))
    return found


@contextmanager
def tokens_seen(layer: nn.Module) -> Iterator[list[int]]:
    """How many tokens each pass took through the feed-forward part."""
    seen: list[int] = []
    feed = [m for name, m in layer.named_modules() if name.split(".")[-1] in FEED][-1]
    hook = feed.register_forward_hook(lambda _m, _x, out: seen.append(out.numel() // out.shape[-1]))
    try:
        yield seen
    finally:
        hook.remove()


@pytest.mark.parametrize("family", FAMILIES)
def test_of_a_prompt_its_last_token(family: str) -> None:
    model = grounded(family, tied=True)
    with tokens_seen(layers_of(model)[0]) as first, tokens_seen(layers_of(model)[-1]) as last:
        answer(Engine(model), reply("a", (text(model, PROMPT),), 2))
    assert (first, last) == ([len(PROMPT), 1], [1, 1])


def test_of_a_piece_that_nobody_reads_nothing_more_than_a_token(model: GroundedModel) -> None:
    engine = Engine(model, EngineConfig(prefill_tokens=20))
    with tokens_seen(layers_of(model)[-1]) as last:
        heard = answer(engine, reply("a", (text(model, PROMPT),), 4))
    assert last == [1] * 6
    assert heard.ids == generate(model, (text(model, PROMPT),), 4)


def test_streams_beside_a_prompt(model: GroundedModel) -> None:
    requests = [reply(str(i), (text(model, PROMPT[i:]),), 8) for i in range(4)]
    with tokens_seen(layers_of(model)[-1]) as last:
        heard = answers(Engine(model), requests, steps_between=1)
    assert last[:4] == [1, 2, 3, 4]
    assert [h.ids for h in heard] == [generate(model, r.segments, 8) for r in requests]


def test_where_most_are_read_all_of_them(model: GroundedModel) -> None:
    with tokens_seen(layers_of(model)[-1]) as last:
        answer(Engine(model), ScoringRequest("a", (text(model, PROMPT),), score_from=0))
    assert last == [len(PROMPT)]


def test_where_several_of_one_text_are_read_all_of_them(model: GroundedModel) -> None:
    request = ScoringRequest("a", (text(model, PROMPT),), (3, 40))
    with tokens_seen(layers_of(model)[-1]) as last:
        answer(Engine(model), request)
    assert last == [len(PROMPT)]


def test_where_inner_layers_are_read_all_of_them(model: GroundedModel) -> None:
    lm: Any = model.lm
    width = lm.config.hidden_size
    mappers = Mappers(
        VISION_DIM,
        width,
        width,
        n_visual_tokens=2,
        shared_dim=6,
        text_emb_layers=(1, -1),
        tied=True,
    )
    inner = GroundedModel(lm, mappers, model.tokenizer)
    try:
        with tokens_seen(layers_of(inner)[-1]) as last:
            answer(Engine(inner), reply("a", (text(inner, PROMPT),), 1))
    finally:
        model.write_ret_row()
    assert last == [len(PROMPT)]


def test_the_layer_is_as_it_was_after_each_pass(model: GroundedModel) -> None:
    """Whoever replaced its forward (accelerate does) finds that again, and it is called."""
    layer, calls = layers_of(model)[-1], []
    own = layer.forward

    def counted(*args: Any, **kw: Any) -> Any:
        calls.append(1)
        return own(*args, **kw)

    answer(Engine(model), reply("a", (text(model, PROMPT),), 2))
    assert "forward" not in layer.__dict__
    layer.forward = counted
    try:
        answer(Engine(model), reply("a", (text(model, PROMPT),), 2))
        assert layer.forward is counted
    finally:
        del layer.forward
    assert len(calls) == 3  # the prompt for its keys and for its last token, and a token
