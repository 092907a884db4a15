"""The recorded reference through the engine: all cases of a variant in one batch."""

from typing import Any

import numpy as np
import pytest

from fromage_server.engine import (
    Engine,
    EngineConfig,
    GenerationRequest,
    SamplingParams,
    ScoringRequest,
)
from tests.server.engine.driving import answer, answers
from tests.weights.recording import EMBEDDINGS, LIKELIHOODS, Case, Recording


def request_of(recording: Recording, case: Case, **options: Any) -> GenerationRequest:
    params = SamplingParams(case.num_words, ret_scale_factor=case.ret_scale_factor, **options)
    return GenerationRequest(case.id, tuple(recording.segments(case.prompt)), params)


def generating(recording: Recording) -> list[Case]:
    return [c for c in recording.cases if c.num_words > 0 and c.output.get("generated_ids")]


def test_every_reply_in_one_mixed_batch(recording: Recording) -> None:
    cases = generating(recording)
    ret = recording.loaded.model.ret_token_id
    engine = Engine(recording.loaded.model, EngineConfig(max_batch=8))
    requests = [request_of(recording, case, compat=True) for case in cases]
    for case, heard in zip(cases, answers(engine, requests, steps_between=1), strict=True):
        ids = case.output["generated_ids"]
        assert heard.ids == ids, case.id
        assert [r.token_index for r in heard.rets] == [
            i for i, token in enumerate(ids[:-1]) if token == ret
        ]
        positions = [len(case.output["input_layout"]) + r.token_index for r in heard.rets]
        expected = recording.arrays[f"{case.id}/all_embeddings"][positions].numpy()
        for event, query in zip(heard.rets, expected, strict=True):
            np.testing.assert_allclose(event.query, query, rtol=0, atol=EMBEDDINGS)


def test_where_the_reference_has_no_query_for_the_last_ret_the_default_has(
    recording: Recording,
) -> None:
    ret = recording.loaded.model.ret_token_id
    cases = [c for c in generating(recording) if c.output["generated_ids"][-1] == ret]
    if not cases:
        pytest.skip("no such case in this recording")
    for case in cases:
        request = request_of(recording, case, ignore_eos=True)
        heard = answer(Engine(recording.loaded.model), request)
        assert heard.ids == case.output["generated_ids"]
        assert heard.rets[-1].token_index == case.num_words - 1


def test_the_prompts_own_rets(recording: Recording) -> None:
    cases = [c for c in recording.cases if c.output.get("true_ret_layout_positions")]
    assert cases
    for case in cases:
        positions = tuple(case.output["true_ret_layout_positions"])
        request = GenerationRequest(
            case.id, tuple(recording.segments(case.prompt)), SamplingParams(0), positions
        )
        heard = answer(Engine(recording.loaded.model), request)
        expected = recording.arrays[f"{case.id}/all_embeddings"][list(positions)].numpy()
        assert [r.token_index for r in heard.rets] == list(positions)
        np.testing.assert_allclose([r.query for r in heard.rets], expected, rtol=0, atol=EMBEDDINGS)


def test_log_likelihoods(recording: Recording) -> None:
    cases = [c for c in recording.cases if c.output.get("log_lik") is not None]
    assert cases
    requests = [
        ScoringRequest(case.id, tuple(recording.segments(case.prompt)), score_from=0)
        for case in cases
    ]
    engine = Engine(recording.loaded.model)
    for case, heard in zip(cases, answers(engine, requests), strict=True):
        mean = sum(heard.score.logprobs) / len(heard.score.logprobs)
        np.testing.assert_allclose(mean, case.output["log_lik"], rtol=0, atol=LIKELIHOODS)
