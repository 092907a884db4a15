"""/v1/retrieve, /v1/score and /v1/models on a running server."""

import httpx
import pytest

from tests.server.sizes import CONTEXT, PICTURES, SOFT_TOKENS
from tests.server.test_replies import IMAGE, post


def test_retrieve(server: httpx.Client) -> None:
    body = {"prompt": "a dog", "k": 4, "return_query_embedding": True}
    answer = post(server, "/v1/retrieve", body)
    assert set(answer) == {"images", "query_embedding"}
    assert all(set(image) == IMAGE for image in answer["images"])
    scores = [image["score"] for image in answer["images"]]
    assert scores == sorted(scores, reverse=True)
    assert answer == post(server, "/v1/retrieve", body | {"prompt": "a dog[RET]"})
    best = answer["images"][0]["id"]
    rest = post(server, "/v1/retrieve", body | {"exclude": [best]})["images"]
    assert [image["id"] for image in rest[:3]] == [image["id"] for image in answer["images"][1:]]
    assert len(post(server, "/v1/retrieve", {"prompt": "a", "k": 100})["images"]) == PICTURES
    assert post(server, "/v1/retrieve", {"prompt": "a", "min_score": 1})["images"] == []


def test_score(server: httpx.Client) -> None:
    """The likelihood of a whole text is that of its beginning and of the rest after it."""
    (whole,) = post(server, "/v1/score", {"prompt": "a small dog"})["scores"]
    (begin,) = post(server, "/v1/score", {"prompt": "a small"})["scores"]
    body = {"prompt": "a small", "candidates": [" dog", " cat", "s"]}
    dog, cat, _ = post(server, "/v1/score", body)["scores"]
    assert set(dog) == {"log_likelihood", "mean_log_likelihood", "tokens"}
    assert dog["tokens"] == cat["tokens"] == 4
    assert dog["mean_log_likelihood"] == pytest.approx(dog["log_likelihood"] / 4)
    total = begin["log_likelihood"] + dog["log_likelihood"]
    assert whole["log_likelihood"] == pytest.approx(total, abs=1e-3)


def test_models(server: httpx.Client) -> None:
    answer = server.get("/v1/models").json()
    assert answer["object"] == "list"
    (card,) = answer["data"]
    assert (card["id"], card["object"], card["owned_by"]) == ("tiny", "model", "fromage")
    assert isinstance(card["created"], int)
    bundle = card["bundle"]
    assert (bundle["language_model"], bundle["vision_encoder"]) == ("./lm", "./vision")
    assert (bundle["architecture"], bundle["numbers"]) == ("llama", "float32")
    assert (bundle["context"], bundle["soft_tokens"]) == (CONTEXT, SOFT_TOKENS)
