"""The recorded reference replayed over HTTP: `reference_compat` gives what it gave."""

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.server.recording import Case, Replay, interleaved, queries, recorded

LOGITS, EMBEDDINGS, SCORES, LIKELIHOODS = 2e-4, 1e-5, 2e-4, 1e-4


def succeeded(replay: Replay) -> list[Case]:
    return [case for case in replay.cases if case.output["error"] is None]


def test_every_case_is_replayed(replay: Replay) -> None:
    assert len(replay.cases) >= 4
    assert any(case.max_tokens == 0 for case in succeeded(replay))
    assert any(case.output["rets"] for case in succeeded(replay) if case.max_tokens)


def test_generated_ids(replay: Replay) -> None:
    for case in succeeded(replay):
        expected = case.output["generated_ids"] or []
        assert replay.as_reference(case)["token_ids"] == expected, case.id


def test_prompt_length(replay: Replay) -> None:
    for case in succeeded(replay):
        usage = replay.as_reference(case)["usage"]
        assert usage["prompt_tokens"] == len(case.output["input_layout"]), case.id
        assert usage["completion_tokens"] == case.max_tokens, case.id


def test_texts_and_images(replay: Replay) -> None:
    for case in succeeded(replay):
        content = replay.as_reference(case)["content"]
        assert interleaved(content) == recorded(case.output), case.id


def test_query_embeddings(replay: Replay) -> None:
    for case in succeeded(replay):
        content = replay.as_reference(case)["content"]
        found = dict(queries(content))
        assert len(found) == len(case.output["rets"]), case.id
        for ret, query in found.items():
            used = replay.arrays[f"{case.id}/ret_emb"][ret]
            np.testing.assert_allclose(query, used, rtol=0, atol=EMBEDDINGS, err_msg=case.id)


def test_scores(replay: Replay) -> None:
    """The reference's scores are cosines times exp(logit_scale), the norm of its matrix's rows."""
    scale = np.linalg.norm(replay.arrays["emb_matrix"], axis=1).mean()
    for case in succeeded(replay):
        for part in replay.as_reference(case)["content"]:
            if part["type"] == "image":
                row = int(part["image"]["key"].removeprefix("img_").removesuffix(".png"))
                expected = replay.arrays[f"{case.id}/ret_scores"][part["ret_index"], row]
                assert part["image"]["score"] * scale == pytest.approx(expected, abs=SCORES)


def test_logprobs(replay: Replay) -> None:
    with_logits = [case for case in succeeded(replay) if f"{case.id}/step_logits" in replay.arrays]
    if not with_logits:
        pytest.skip("the logits are only in the full recording")
    for case in with_logits:
        logits = replay.arrays[f"{case.id}/step_logits"]
        expected = log_softmax(logits)
        for step, entry in enumerate(replay.as_reference(case)["logprobs"][: len(logits)]):
            for token in (entry, *entry["top"]):
                value = expected[step, token["token_id"]]
                assert token["logprob"] == pytest.approx(value, abs=LOGITS), case.id


def test_log_likelihoods(replay: Replay) -> None:
    scored = [case for case in succeeded(replay) if case.output.get("log_lik") is not None]
    assert scored
    for case in scored:
        for compat in (True, False):
            body = {"prompt": case.prompt, "reference_compat": compat}
            (score,) = replay.post("/v1/score", body)["scores"]
            expected = case.output["log_lik"]
            assert score["mean_log_likelihood"] == pytest.approx(expected, abs=LIKELIHOODS), case.id
            assert score["log_likelihood"] == pytest.approx(
                score["mean_log_likelihood"] * score["tokens"]
            )


def test_what_the_reference_raises_on(replay: Replay) -> None:
    raising = [case for case in replay.cases if case.output["error"] is not None]
    for case in raising:
        error = replay.generate(case, status=422, reference_compat=True)["error"]
        assert error["code"] == "reference_error", case.id


def log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """(n, V) logits to natural log-probabilities."""
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    found: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return found
