"""[RET]: queries, masks and both modes, against a loop without any cache."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from fromage_server.engine import (
    GenerationRequest,
    RetEvent,
    SamplingParams,
    TokenEvent,
)
from fromage_weights.grounded import GroundedModel
from tests.server.engine.driving import Engines, Heard, answer, answers, reply
from tests.server.engine.tiny import chain, grounded, image, text

Queries = dict[int, NDArray[np.float32]]


def naive(model: GroundedModel, request: GenerationRequest) -> tuple[list[int], Queries, Queries]:
    """Greedy ids, the reply's queries by token index and the prompt's by position: the whole
    sequence through the model at every step."""
    params, ids = request.params, list[int]()
    with torch.inference_mode():
        embeds = model.embed(request.segments)[None]
        prompt_length = embeds.shape[1]
        while len(ids) < params.max_tokens and not (
            ids and ids[-1] in model.eos_token_ids and not params.compat
        ):
            logits = model.forward(embeds).logits[0, -1].clone()
            logits[model.ret_token_id] *= params.ret_scale_factor
            used = ids.count(model.ret_token_id)
            if (
                not params.compat
                and params.max_num_rets is not None
                and used >= params.max_num_rets
            ):
                logits[model.ret_token_id] = -torch.inf
            if len(ids) - used < params.min_word_tokens:
                logits[model.ret_token_id] = -torch.inf
                if not params.compat:
                    logits[list(model.eos_token_ids)] = -torch.inf
            ids.append(int(logits.argmax()))
            embeds = torch.cat([embeds, model.embed_ids(torch.tensor([ids[-1:]]))], dim=1)
        queries = model.mappers.query_embeddings(model.forward(embeds).hidden[0]).numpy()
    in_reply = {i: queries[prompt_length + i] for i, t in enumerate(ids) if t == model.ret_token_id}
    if params.compat:
        in_reply.pop(len(ids) - 1, None)
    return ids, in_reply, {p: queries[p] for p in request.prompt_ret_positions}


def check(model: GroundedModel, request: GenerationRequest, heard: Heard) -> int:
    """Compare with the naive loop; the number of [RET]s in the reply."""
    ids, in_reply, in_prompt = naive(model, request)
    assert heard.ids == ids
    assert [r.token_index for r in heard.rets if r.in_prompt] == list(in_prompt)
    assert [r.token_index for r in heard.rets if not r.in_prompt] == list(in_reply)
    assert [r.ret_index for r in heard.rets] == [*range(len(in_prompt)), *range(len(in_reply))]
    for event in heard.rets:
        expected = (in_prompt if event.in_prompt else in_reply)[event.token_index]
        np.testing.assert_allclose(event.query, expected, atol=1e-5)
        assert event.query.dtype == np.float32
    check_order(model, heard)
    return len(in_reply)


def check_order(model: GroundedModel, heard: Heard) -> None:
    """A query comes right after its token, before the next one."""
    for before, event in zip(heard.events, heard.events[1:], strict=False):
        if isinstance(event, RetEvent) and not event.in_prompt:
            assert isinstance(before, TokenEvent)
            assert before.token_id == model.ret_token_id


@pytest.mark.parametrize("family", ["opt", "opt-350m", "gemma3", "gpt-neox"])
@pytest.mark.parametrize("compat", [False, True])
def test_queries_and_masks_in_a_mixed_batch(family: str, compat: bool, engines: Engines) -> None:
    model = grounded(family, tied=True)
    ret = model.tokenizer.ret_token
    prompts = (
        ((text(model, "Show me a cat"),), (5, 0)),
        ((image(1), text(model, f"and {ret} this"), image(2)), (6,)),
        ((text(model, f"{ret}"),), (0,)),
        ((text(model, "more "), image(3), text(model, f" of it {ret}{ret}")), (14, 15)),
    )
    requests = [
        replace(
            reply(
                str(i),
                segments,
                max_tokens=10 + i,
                ret_scale_factor=8.0,
                max_num_rets=(None, 2, 0, 1)[(i + i // 4) % 4],
                min_word_tokens=(0, 3)[i // 4],
                compat=compat,
            ),
            prompt_ret_positions=positions,
        )
        for i, (segments, positions) in enumerate(prompts * 2)
    ]
    heard = answers(engines(model), requests, steps_between=1)
    found = sum(check(model, r, h) for r, h in zip(requests, heard, strict=True))
    assert found >= 6, "too few [RET]s to prove anything"


SAYS = {"!": "One ◆"}  # after "!" the model says "One ", then [RET], then "</s>"


def test_ret_as_the_last_token_allowed_has_its_query(engines: Engines) -> None:
    model = chain(SAYS)
    request = reply("a", (text(model, "!"),), max_tokens=5)
    heard = answer(engines(model), request)
    assert heard.ids[-1] == model.ret_token_id
    assert check(model, request, heard) == 1
    assert isinstance(heard.events[-2], RetEvent)
    assert heard.finish.reason == "length"
    assert heard.finish.usage.completion_tokens == 5


def test_the_first_ret_can_end_the_reply(engines: Engines) -> None:
    model = chain({"!": "One ◆xyz"})
    request = reply("a", (text(model, "!"),), max_tokens=20)
    whole = answer(engines(model), request)
    ended = answer(
        engines(model), replace(request, params=replace(request.params, stop_after_ret=True))
    )
    assert whole.ids[-1] != model.ret_token_id
    assert ended.ids == whole.ids[: whole.ids.index(model.ret_token_id) + 1]
    assert len(ended.rets) == 1
    np.testing.assert_allclose(ended.rets[0].query, whole.rets[0].query, atol=1e-5)
    assert ended.finish.reason == "stop"


def test_ret_as_the_last_token_has_none_in_compat_mode(engines: Engines) -> None:
    model = chain(SAYS)
    heard = answer(engines(model), reply("a", (text(model, "!"),), max_tokens=5, compat=True))
    assert heard.ids[-1] == model.ret_token_id
    assert heard.rets == []


def test_ret_has_no_text_and_gives_out_what_was_waiting(engines: Engines) -> None:
    model = chain(SAYS)
    heard = answer(engines(model), reply("a", (text(model, "!"),), stop=("e [",)))
    assert [event.text for event in heard.tokens] == ["O", "n", "", "", "e ", ""]
    assert heard.finish.reason == "stop"


def test_max_num_rets_masks_the_token(engines: Engines) -> None:
    model = chain({"!": "a◆b"})
    free = answer(engines(model), reply("a", (text(model, "!"),)))
    assert free.text == "ab"
    assert len(free.rets) == 1
    masked = answer(engines(model), reply("a", (text(model, "!"),), max_num_rets=0, max_tokens=3))
    assert model.ret_token_id not in masked.ids


def test_min_word_tokens_keeps_ret_and_the_end_away(engines: Engines) -> None:
    model = chain({"!": "a◆"})
    heard = answer(engines(model), reply("a", (text(model, "!"),), min_word_tokens=4))
    early = heard.ids[:4]
    assert model.ret_token_id not in early
    assert not set(early) & set(model.eos_token_ids)


def test_prompt_queries_without_a_reply(engines: Engines) -> None:
    model = grounded("opt", tied=True)
    segments = (image(1), text(model, f"a{model.tokenizer.ret_token}b"), image(2))
    request = GenerationRequest("a", segments, SamplingParams(0), prompt_ret_positions=(3, 0))
    heard = answer(engines(model), request)
    assert check(model, request, heard) == 0
    assert len(heard.rets) == 2
    assert heard.finish.reason == "length"
    assert heard.finish.usage.prompt_tokens == 7
    assert heard.finish.timings.ttft_ms is None
