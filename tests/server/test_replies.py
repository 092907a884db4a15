"""/v1/chat and /v1/generate on a running server."""

import base64
import json
from typing import Any

import httpx
import numpy as np
import pytest

from fromage_client.sse import SSEParser
from tests.server.pictures import encoded, picture
from tests.server.sizes import PICTURES, SHARED_DIM, SOFT_TOKENS

Json = dict[str, Any]
RET = {"ret_scale_factor": 100}
USER = {"role": "user", "content": "show me a dog"}
ENDING = {"finish_reason", "usage", "timings"}
USAGE = {
    *("prompt_tokens", "completion_tokens", "total_tokens", "cached_tokens"),
    *("images_in", "images_out", "dropped_turns"),
}
IMAGE = {"id", "collection", "key", "url", "score", "width", "height", "metadata"}


def post(server: httpx.Client, path: str, body: Json) -> Json:
    response = server.post(path, json=body)
    assert response.status_code == 200, response.text
    answer: Json = response.json()
    return answer


def chat(server: httpx.Client, *messages: Json, **options: Any) -> Json:
    return post(
        server, "/v1/chat", {"messages": list(messages or [USER]), "max_tokens": 12} | options
    )


def generate(server: httpx.Client, prompt: Any = "show me a dog", **options: Any) -> Json:
    return post(server, "/v1/generate", {"prompt": prompt, "max_tokens": 12} | options)


def images(reply: Json) -> list[Json]:
    content = reply["message"]["content"] if "message" in reply else reply["content"]
    return [part for part in content if part["type"] == "image"]


def test_the_fields_of_a_chat(server: httpx.Client) -> None:
    reply = chat(server, **RET)
    assert set(reply) == {"id", "model", "message", *ENDING}
    assert reply["model"] == "tiny"
    assert reply["message"]["role"] == "assistant"
    usage = reply["usage"]
    assert set(usage) == USAGE
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert usage["images_out"] == len(images(reply)) > 0
    assert set(reply["timings"]) == {"queue_ms", "ttft_ms", "total_ms"}
    assert 0 <= reply["timings"]["queue_ms"] <= reply["timings"]["ttft_ms"]
    assert reply["timings"]["ttft_ms"] <= reply["timings"]["total_ms"]
    for part in images(reply):
        assert set(part) == {"type", "ret_index", "image", "alternatives"}
        assert set(part["image"]) == IMAGE
        assert -1 <= part["image"]["score"] <= 1
        assert part["image"]["collection"] == "shelf"
        assert (part["image"]["width"], part["image"]["height"]) == (60, 40)
        assert part["image"]["metadata"]["number"] == int(part["image"]["key"][4:6])
        assert server.get(part["image"]["url"]).status_code == 200


@pytest.mark.parametrize("path", ["/v1/chat", "/v1/generate"])
def test_folded_events_are_the_json_reply(server: httpx.Client, path: str) -> None:
    body: Json = {"max_tokens": 30, "max_img_per_ret": 2, "ignore_eos": True, **RET}
    if path == "/v1/chat":
        body["messages"] = [USER]
    else:
        body |= {"prompt": "show me", "return_token_ids": True, "logprobs": 2}
        body["return_query_embedding"] = True
    post(server, path, body)  # what is kept of the prompt then changes the last digits of scores
    whole = post(server, path, body)
    with server.stream("POST", path, json={**body, "stream": True}) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        frames = list(SSEParser().feed(b"".join(response.iter_bytes())))
    assert [int(frame.id) for frame in frames] == list(range(len(frames)))
    assert frames[0].event == "message.start"
    assert frames[-1].event == "message.end"
    content: list[Json] = []
    for frame in frames[1:-1]:
        data = json.loads(frame.data)
        index = data.pop("index")
        if frame.event == "image":
            assert index == len(content)
            content.append(data)
        elif index == len(content):
            content.append({"type": "text", "text": data["text"]})
        else:
            content[index]["text"] += data["text"]
    end = json.loads(frames[-1].data)
    expected = whole["message"]["content"] if "message" in whole else whole["content"]
    assert content == expected
    assert set(end) == set(whole) - {"id", "model", "message", "content"}
    for name in set(end) - {"timings"}:
        assert end[name] == whole[name], name


def test_a_reply_can_be_sent_back_unchanged(server: httpx.Client) -> None:
    first = chat(server, **RET)
    history = [USER, first["message"], {"role": "user", "content": "more"}]
    second = chat(server, *history, **RET)
    told = "".join(part.get("text", "R") for part in first["message"]["content"])
    # One letter is one token; each image here is the only one of its [RET].
    letters = len("Q: show me a dog\nA:") + len(f" {told}\n") + len("Q: more\nA:")
    assert second["usage"]["prompt_tokens"] == letters
    shown = {part["image"]["id"] for part in images(first)}
    again = {part["image"]["id"] for part in images(second)}
    assert again
    assert not shown & again
    repeated = chat(server, *history, exclude_shown=False, **RET)
    assert repeated["usage"]["prompt_tokens"] == letters


def test_no_image_comes_twice_in_a_reply(server: httpx.Client) -> None:
    reply = chat(server, max_tokens=60, max_num_rets=8, max_img_per_ret=2, **RET)
    ids = [part["image"]["id"] for part in images(reply)]
    assert len(ids) == len(set(ids)) == PICTURES


def test_the_default_collection_and_the_others(server: httpx.Client) -> None:
    assert {part["image"]["collection"] for part in images(chat(server, **RET))} == {"shelf"}
    reply = chat(server, collection="box", **RET)
    assert {part["image"]["collection"] for part in images(reply)} == {"box"}
    listed = server.get("/v1/collections").json()["collections"]
    assert [(item["name"], item["size"], item["default"]) for item in listed] == [
        ("shelf", PICTURES, True),
        ("box", PICTURES, False),
    ]
    assert {item["dim"] for item in listed} == {SHARED_DIM}


def test_filter_and_min_score(server: httpx.Client) -> None:
    wanted = {"colour": {"in": ["red", "blue"]}, "number": {"gte": 3, "lt": 6}}
    reply = chat(server, filter=wanted, max_img_per_ret=4, **RET)
    assert {part["image"]["metadata"]["number"] for part in images(reply)} == {3, 5}
    scores = [part["image"]["score"] for part in images(chat(server, max_img_per_ret=9, **RET))]
    middle = sorted(scores)[len(scores) // 2]
    reply = chat(server, min_score=middle, max_num_rets=1, max_img_per_ret=9, **RET)
    assert all(part["image"]["score"] >= middle for part in images(reply))
    assert len(images(reply)) < PICTURES


def test_groups_and_alternatives(server: httpx.Client) -> None:
    reply = chat(server, max_num_rets=1, max_img_per_ret=3, **RET)
    first, second, third = images(reply)
    assert [part["ret_index"] for part in (first, second, third)] == [0, 0, 0]
    assert len(first["alternatives"]) == 3
    assert second["alternatives"] == third["alternatives"] == []
    ranked = [part["image"] for part in (first, second, third)] + first["alternatives"]
    assert [image["score"] for image in ranked] == sorted(
        (image["score"] for image in ranked), reverse=True
    )


def test_base64_on_request(server: httpx.Client) -> None:
    (part, *_) = images(chat(server, image_format="base64", **RET))
    head, data = part["image"]["url"].split(",")
    assert head == "data:image/jpeg;base64"
    assert base64.b64decode(data).startswith(b"\xff\xd8")


def test_a_user_s_image_however_it_comes(server: httpx.Client) -> None:
    (known,) = server.post(
        "/v1/retrieve", json={"prompt": "a", "k": 1, "filter": {"number": 2}}
    ).json()["images"]
    data = encoded(picture(2))
    upload = server.post("/v1/uploads", content=data, headers={"content-type": "image/png"}).json()
    uri = f"data:image/png;base64,{base64.b64encode(data).decode()}"
    sources = [
        {"type": "image_url", "image_url": {"url": uri}},
        {"type": "image", "image": {"upload": upload["id"]}},
        {"type": "image", "image": {"collection": "shelf", "id": known["id"]}},
    ]
    found = []
    for source in sources:
        content = [source, {"type": "text", "text": "what?"}]
        reply = chat(server, {"role": "user", "content": content}, max_num_rets=0)
        assert reply["usage"]["images_in"] == 1
        assert reply["usage"]["prompt_tokens"] == len("Q: () what?\nA:") + SOFT_TOKENS
        found.append(reply["message"]["content"])
    assert found[0] == found[1] == found[2]


def test_an_image_is_read(server: httpx.Client) -> None:
    """Another picture, another likelihood of the same text after it."""
    scores = []
    for number in (0, 1):
        url = f"data:image/png;base64,{base64.b64encode(encoded(picture(number))).decode()}"
        prompt = [{"type": "image_url", "image_url": {"url": url}}]
        body = {"prompt": prompt, "candidates": ["a dog"]}
        scores.append(post(server, "/v1/score", body)["scores"][0]["log_likelihood"])
    assert abs(scores[0] - scores[1]) > 1e-4


def test_truncation_leaves_out_the_oldest_turns(server: httpx.Client) -> None:
    turns = [
        {"role": "user" if i % 2 == 0 else "assistant", "content": "a" * 990} for i in range(8)
    ]
    messages = [*turns, {"role": "user", "content": "last"}]
    refused = server.post("/v1/chat", json={"messages": messages, "max_tokens": 12})
    error = refused.json()["error"]
    assert (refused.status_code, error["code"]) == (400, "context_length_exceeded")
    assert "4096" in error["message"].replace(",", "")
    reply = chat(server, *messages, truncation="oldest_turns")
    assert reply["usage"]["dropped_turns"] == 2
    assert 3900 < reply["usage"]["prompt_tokens"] <= 4096 - 12


def test_the_same_seed_gives_the_same_reply(server: httpx.Client) -> None:
    hot = {"temperature": 2.0, "max_num_rets": 0, "ignore_eos": True, "max_tokens": 24}
    one, two, other = (generate(server, seed=seed, **hot)["content"] for seed in (5, 5, 6))
    assert one == two != other


def test_token_ids_and_logprobs(server: httpx.Client) -> None:
    reply = generate(server, return_token_ids=True, logprobs=3, ignore_eos=True, max_num_rets=0)
    assert reply["finish_reason"] == "length"
    assert len(reply["token_ids"]) == 12 == reply["usage"]["completion_tokens"]
    for token, entry in zip(reply["token_ids"], reply["logprobs"], strict=True):
        assert set(entry) == {"token_id", "token", "logprob", "top"}
        assert entry["token_id"] == token == entry["top"][0]["token_id"]
        assert len(entry["top"]) == 3
        assert entry["logprob"] == entry["top"][0]["logprob"] >= entry["top"][1]["logprob"]
    # This tokenizer joins its tokens by spaces.
    assert " ".join(entry["token"] for entry in reply["logprobs"]) == reply["content"][0]["text"]
    plain = generate(server, ignore_eos=True, max_num_rets=0)
    assert set(plain) == {"id", "model", "content", *ENDING}
    assert plain["content"] == reply["content"]


def test_query_embeddings_stand_beside_the_image(server: httpx.Client) -> None:
    reply = generate(server, return_query_embedding=True, **RET)
    for part in images(reply):
        query = np.array(part["query_embedding"])
        assert query.shape == (SHARED_DIM,)
        assert np.linalg.norm(query) == pytest.approx(1, abs=1e-5)


def test_stop_strings(server: httpx.Client) -> None:
    free = generate(server, ignore_eos=True, max_num_rets=0)["content"][0]["text"]
    stop = free[4:6]
    reply = generate(server, ignore_eos=True, max_num_rets=0, stop=stop)
    assert reply["finish_reason"] == "stop"
    assert reply["content"][0]["text"] == free[: free.index(stop)]


def test_min_word_tokens(server: httpx.Client) -> None:
    reply = generate(server, min_word_tokens=9, return_token_ids=True, **RET)
    ret = max(reply["token_ids"])
    assert images(reply)
    assert reply["token_ids"].index(ret) >= 9


def test_max_tokens_0_shows_the_prompt_s_own_rets(server: httpx.Client) -> None:
    prompt = "one [RET] two [RET] three"
    reply = generate(server, prompt, max_tokens=0)
    # This tokenizer joins its tokens, single letters, by spaces.
    kinds = [part.get("text", "image").replace(" ", "") for part in reply["content"]]
    assert kinds == ["one", "image", "two", "image", "three"]
    assert reply["finish_reason"] == "length"
    assert reply["usage"]["completion_tokens"] == 0
    assert [part["type"] for part in generate(server, "none", max_tokens=0)["content"]] == ["text"]


def test_a_history_of_very_many_images_loses_its_oldest_turns(server: httpx.Client) -> None:
    """More than a request may have: `oldest_turns` keeps as many as are allowed."""
    data = base64.b64encode(encoded(picture(1), "PNG")).decode()
    shown = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}}
    turns: list[dict[str, Any]] = []
    for _ in range(70):
        turns += [{"role": "user", "content": [shown]}, {"role": "assistant", "content": "a"}]
    body = {"messages": [*turns, {"role": "user", "content": "b"}], "max_tokens": 1}
    refused = server.post("/v1/chat", json=body)
    assert refused.status_code == 400
    answer = server.post("/v1/chat", json=body | {"truncation": "oldest_turns"})
    assert answer.status_code == 200, answer.text
    usage = answer.json()["usage"]
    assert usage["dropped_turns"] >= 6
    assert usage["images_in"] == 70 - usage["dropped_turns"]
