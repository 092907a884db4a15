"""Greedy decoding of many prompts at once, against one by one."""

from dataclasses import replace

import pytest
import torch

from fromage_weights.errors import UnsupportedModel
from fromage_weights.evaluation.decoding import greedy, greedy_to_ret
from fromage_weights.evaluation.queries import query_embeddings
from fromage_weights.grounded import ImageSegment, Segment, TextSegment
from tests.weights.tiny import grounded, language_model, with_mappers


@torch.inference_mode()
def test_batches_give_what_single_prompts_give() -> None:
    """Rows that have finished leave the batch, the others go on as if alone."""
    model = grounded("llama")
    torch.manual_seed(2)
    prompts = [torch.randn(n, 32) for n in (3, 9, 5, 7, 4, 8)]
    alone = [greedy(model.lm, [p], stop=set(), max_tokens=12)[0] for p in prompts]
    # A stop token that ends some early and some late.
    stop = {alone[0][2], alone[1][6]}
    wanted = []
    for ids in alone:
        ends = [i for i, token in enumerate(ids) if token in stop]
        wanted.append(ids[: ends[0] + 1] if ends else ids)
    assert len({len(ids) for ids in wanted}) > 1
    assert greedy(model.lm, prompts, stop=stop, max_tokens=12) == wanted


def test_queries_of_many_are_those_of_each() -> None:
    """Of mixed lengths, in no order."""
    model = grounded("llama")
    torch.manual_seed(2)
    vision_dim = model.mappers.vision_dim
    prompts: list[list[Segment]] = [
        [ImageSegment(torch.randn(vision_dim))] * images + [TextSegment((*range(ids),))]
        for images, ids in [(0, 3), (2, 9), (1, 1), (0, 30), (3, 2), (0, 8)]
    ]
    together = query_embeddings(model, prompts, batch=4)
    for found, prompt in zip(together, prompts, strict=True):
        output = model.forward(model.embed(prompt)[None])
        (alone,) = model.mappers.query_embeddings(output.hidden[:, -1])
        assert torch.allclose(found, alone, atol=1e-5)


@torch.inference_mode()
def test_no_reply_goes_further_than_the_model_reads() -> None:
    """And none that is done takes the batch there; a [RET] in the last place is still read."""
    model = with_mappers(language_model("opt", tied=True, max_position_embeddings=24))
    torch.manual_seed(6)
    width = model.mappers.embed_dim
    begin = TextSegment((*torch.randint(30, (20,)).tolist(),))
    long, short = model.embed([begin]), torch.randn(3, width)
    (ids,) = greedy(model.lm, [long], stop=(), max_tokens=4)
    (others,) = greedy(model.lm, [short], stop=(), max_tokens=21)
    # One that comes last stands for [RET].
    ret = ids[-1]
    assert ret not in (*ids[:-1], *others)
    model.config = replace(model.config, ret_token_id=ret)
    found, states, _ = greedy_to_ret(model, [long, *[short] * 3], stop=(), max_tokens=50)
    assert found == [ids, others, others, others]
    assert [*states] == [0]
    query = model.mappers.query_embeddings(states[0][None])
    whole = [begin, TextSegment((*ids,))]
    assert torch.allclose(query, query_embeddings(model, [whole]), atol=1e-5)


def test_a_model_that_keeps_nothing_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = grounded("llama")
    monkeypatch.setattr(model.lm.config, "use_cache", False)
    forward = model.lm.forward

    def forgets(**given: object) -> object:
        return forward(**(given | {"use_cache": False}))

    monkeypatch.setattr(model.lm, "forward", forgets)
    prompts = [torch.randn(3, model.mappers.embed_dim)]
    for write in (
        lambda: greedy(model.lm, prompts, stop=(), max_tokens=2),
        lambda: greedy_to_ret(model, prompts, stop=(), max_tokens=2),
    ):
        with pytest.raises(UnsupportedModel, match="keeps no keys and values"):
            write()
