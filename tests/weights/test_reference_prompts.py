"""Every recorded prompt case, through the model: tokens, logits, embeddings, likelihoods."""

import torch

from fromage_weights.scoring import token_log_likelihoods
from tests.weights.recording import (
    EMBEDDINGS,
    LIKELIHOODS,
    LOGITS,
    SCORES,
    Recording,
    check_close,
    greedy,
    layout_of,
)


def test_the_prompt_becomes_the_same_sequence(recording: Recording) -> None:
    model = recording.loaded.model
    for case in recording.cases:
        expected = case.output["input_layout"]
        segments = recording.segments(case.prompt)
        assert layout_of(segments, model.n_visual_tokens) == expected, case.id
        assert model.embed(segments).shape == (len(expected), model.mappers.embed_dim)


def test_greedy_decoding_gives_the_same_ids_logits_and_embeddings(recording: Recording) -> None:
    checked = {"step_logits": 0, "all_embeddings": 0, "final_logits": 0}
    with torch.inference_mode():
        for case in recording.cases:
            if "generated_ids" not in case.output:
                continue  # an image-only prompt: the reference raises before it generates
            ids, steps, queries = greedy(recording, case)
            assert ids == (case.output["generated_ids"] or []), case.id
            found = {"step_logits": steps[:8], "all_embeddings": queries, "final_logits": steps[0]}
            for name, value in found.items():
                expected = recording.arrays.get(f"{case.id}/{name}")
                if expected is not None:
                    tolerance = EMBEDDINGS if name == "all_embeddings" else LOGITS
                    check_close(value, expected, tolerance, case.id)
                    checked[name] += 1
    for name, count in checked.items():
        assert count == sum(key.endswith(f"/{name}") for key in recording.arrays), name


def test_likelihood_of_the_whole_text(recording: Recording) -> None:
    model = recording.loaded.model
    asked = [case for case in recording.cases if case.output.get("log_lik") is not None]
    assert asked
    with torch.inference_mode():
        for case in asked:
            logits = model.forward(model.embed(recording.segments(case.prompt))[None]).logits[0]
            found = token_log_likelihoods(logits, case.output["input_layout"]).mean()
            expected = torch.tensor(case.output["log_lik"])
            check_close(found, expected, LIKELIHOODS, case.id)


def test_scores_of_the_index_rank_the_same(recording: Recording) -> None:
    """exp(logit_scale) times the cosine, for every [RET] before images are downweighted."""
    mappers = recording.loaded.model.mappers
    matrix = recording.arrays["emb_matrix"] / mappers.logit_scale.exp()
    names = [name for name in recording.arrays if name.endswith("/ret_scores")]
    assert names
    for name in names:
        queries = recording.arrays[name.removesuffix("scores") + "emb"]
        found = mappers.similarity(queries, matrix)
        check_close(found, recording.arrays[name], SCORES)
        best = found.topk(20).indices.tolist()
        assert best == recording.arrays[name].topk(20).indices.tolist()
