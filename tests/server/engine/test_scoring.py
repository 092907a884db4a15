"""Log-likelihoods and queries of a prompt, in one pass."""

import numpy as np
import pytest
import torch

from fromage_server.engine import Engine, EngineConfig, InvalidRequest, ScoringRequest
from fromage_weights.grounded import GroundedModel, Segment
from tests.server.engine.driving import answer, answers, reply
from tests.server.engine.tiny import generate, grounded, image, text


@pytest.fixture(scope="module")
def model() -> GroundedModel:
    return grounded("opt", tied=True)


def segments(model: GroundedModel) -> tuple[Segment, ...]:
    """Positions: text 0-2, image 3-4, text 5-7, image 8-9."""
    return (text(model, "abc"), image(1), text(model, "def"), image(2))


TEXT_POSITIONS = (0, 1, 2, 5, 6, 7)


@pytest.mark.parametrize("score_from", [0, 1, 4, 6, 9])
@pytest.mark.parametrize("shifted", [True, False])
def test_against_a_plain_forward(model: GroundedModel, score_from: int, shifted: bool) -> None:
    prompt = segments(model)
    request = ScoringRequest("a", prompt, (7, 0), score_from, shifted)
    heard = answer(Engine(model), request)
    with torch.inference_mode():
        output = model.forward(model.embed(prompt)[None])
        logprobs = output.logits[0].log_softmax(-1)
        queries = model.mappers.query_embeddings(output.hidden[0]).numpy()
    ids = model.tokenizer.encode("abcdef")
    expected = {
        position: logprobs[position - shifted, token].item()
        for position, token in zip(TEXT_POSITIONS, ids, strict=True)
        if position >= score_from and not (shifted and position == 0)
    }
    score = heard.score
    assert dict(zip(score.positions, score.logprobs, strict=True)) == pytest.approx(
        expected, abs=1e-5
    )
    assert score.token_ids == tuple(ids[TEXT_POSITIONS.index(p)] for p in expected)
    np.testing.assert_allclose(score.queries, queries[[7, 0]], atol=1e-6)
    assert heard.finish.usage.prompt_tokens == 10


def test_queries_alone(model: GroundedModel) -> None:
    heard = answer(Engine(model), ScoringRequest("a", segments(model), (9,)))
    assert heard.score.logprobs == ()
    assert heard.score.queries.shape == (1, 6)
    assert np.linalg.norm(heard.score.queries) == pytest.approx(1.0, abs=1e-5)


def test_likelihoods_alone(model: GroundedModel) -> None:
    heard = answer(Engine(model), ScoringRequest("a", segments(model), score_from=0))
    assert heard.score.queries.shape == (0, 6)
    assert heard.score.positions == (1, 2, 5, 6, 7)


@pytest.mark.parametrize("deterministic", [True, False])
def test_scoring_beside_running_replies(model: GroundedModel, deterministic: bool) -> None:
    """It waits for no slot and disturbs nobody. To the last bit only where that was asked for: in
    shared passes the products' shapes change with the company."""
    prompt = (text(model, "tell me"),)
    with torch.inference_mode():
        expected = generate(model, prompt, 12)
    engine = Engine(model, EngineConfig(deterministic=deterministic))
    scoring = [ScoringRequest(f"s{i}", segments(model), score_from=0) for i in range(3)]
    replies = [reply(f"r{i}", prompt, 12) for i in range(3)]
    mixed = [request for pair in zip(replies, scoring, strict=True) for request in pair]
    heard = answers(engine, mixed, steps_between=1)
    assert [h.ids for h in heard[::2]] == [expected] * 3
    scores = [h.score.logprobs for h in heard[1::2]]
    if deterministic:
        assert len(set(scores)) == 1
    assert scores[1:] == [pytest.approx(scores[0], abs=1e-5)] * 2


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"query_positions": (10,)}, "query_positions"),
        ({"query_positions": (-1,)}, "query_positions"),
        ({"score_from": 10}, "score_from"),
    ],
)
def test_positions_outside_the_prompt(
    model: GroundedModel, options: dict[str, object], field: str
) -> None:
    request = ScoringRequest("a", segments(model), **options)  # type: ignore[arg-type]
    with pytest.raises(InvalidRequest, match=f"{field} is -?[0-9]+; allowed: 0 to 9"):
        Engine(model).submit(request, lambda event: None)
