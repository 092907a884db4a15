"""The form itself, on a server whose replies make no sense but are long."""

import itertools
import json
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from fromage_client.sse import SSEParser
from tests.server.process import start, wait_for

Json = dict[str, Any]
USER = {"role": "user", "content": "hi"}
BODY: Json = {"model": "tiny", "messages": [USER], "max_tokens": 8}
LONG: Json = {"ignore_eos": True, "max_num_rets": 0, "min_word_tokens": 4000}


def post(server: httpx.Client, **change: Any) -> httpx.Response:
    return server.post("/v1/chat/completions", json=BODY | change)


def told(response: httpx.Response) -> Json:
    assert response.status_code == 200, response.text
    answer: Json = response.json()
    return answer


def refused(response: httpx.Response, code: str) -> Json:
    assert response.status_code == 400, response.text
    error: Json = response.json()["error"]
    assert set(error) == {"type", "code", "message", "param"}
    assert error["code"] == code, error
    return error


def test_what_every_client_sends_is_taken(server: httpx.Client) -> None:
    """nulls, neutral values, and what nobody needs to follow."""
    neutral: Json = {
        "frequency_penalty": 0,
        "presence_penalty": 0.0,
        "logit_bias": {},
        "tools": [],
        "functions": [],
        "tool_choice": "auto",
        "function_call": "none",
        "response_format": {"type": "text"},
        "modalities": ["text", "image"],
        "reasoning_effort": "none",
        "verbosity": "medium",
        "service_tier": "auto",
        "store": False,
        "metadata": {"a": "b"},
        "parallel_tool_calls": True,
        "prediction": {"type": "content", "content": "x"},
        "prompt_cache_key": "k",
        "prompt_cache_retention": "24h",
        "safety_identifier": "s",
        "user": "u",
        "stream_options": {"include_usage": True, "include_obfuscation": False},
    }
    plain = told(post(server))
    assert told(post(server, **neutral))["choices"] == plain["choices"]
    nulls = dict.fromkeys([*neutral, "audio", "web_search_options", "seed", "stop", "n", "top_p"])
    assert told(post(server, **nulls))["choices"] == plain["choices"]
    assert told(post(server, top_p=0, temperature=1))["choices"] == plain["choices"]
    assert told(post(server, seed=-3))["choices"] == plain["choices"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("frequency_penalty", 0.5),
        ("presence_penalty", -1),
        ("logit_bias", {"50256": -100}),
        ("tools", [{"type": "function", "function": {"name": "f"}}]),
        ("functions", [{"name": "f"}]),
        ("tool_choice", "required"),
        ("function_call", {"name": "f"}),
        ("response_format", {"type": "json_object"}),
        ("modalities", ["text", "audio"]),
        ("audio", {"voice": "alloy", "format": "wav"}),
        ("web_search_options", {}),
        ("reasoning_effort", "high"),
        ("verbosity", "low"),
        ("service_tier", "flex"),
        ("store", True),
    ],
)
def test_what_cannot_be_followed_is_refused(server: httpx.Client, name: str, value: object) -> None:
    error = refused(post(server, **{name: value}), "unsupported_value")
    assert error["type"] == "invalid_request_error"
    assert error["param"] == name
    assert error["message"].startswith(f"{name}: this server")


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"n": 0}, "n"),
        ({"n": 4}, "n"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"max_completion_tokens": 9}, "max_completion_tokens"),
        ({"image_delivery": "pigeon"}, "image_delivery"),
        ({"messages": [{"role": "tool", "content": "x"}, USER]}, "messages.0.role"),
        ({"messages": [USER, {"role": "assistant", "content": "x"}]}, "messages"),
        ({"messages": [{"role": "user", "content": ""}]}, "messages.0"),
        ({"messages": [{"role": "user"}]}, "messages.0"),
        ({"messages": [USER | {"images": [{"image_url": {"url": "x"}}]}]}, "messages.0"),
        (
            {"messages": [{"role": "assistant", "images": [{"image_url": {"url": 5}}]}, USER]},
            "messages.0.images.0.image_url.url",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]},
            "messages.0.content.0",
        ),
        (
            {
                "messages": [
                    {
                        "role": "user",
                        "content": [
                            {"type": "image_url", "image_url": {"url": "a", "detail": "x"}}
                        ],
                    }
                ]
            },
            "messages.0.content.0.image_url.detail",
        ),
    ],
)
def test_values_out_of_range(server: httpx.Client, change: Json, param: str) -> None:
    assert refused(post(server, **change), "invalid_value")["param"] == param


def test_tool_calls_of_the_history_are_refused(server: httpx.Client) -> None:
    calls = {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}
    error = refused(post(server, messages=[USER, calls, USER]), "unsupported_value")
    assert error["param"] == "messages.1.tool_calls"


@pytest.mark.parametrize(
    ("url", "status", "code"),
    [
        ("upload:gone", 404, "upload_not_found"),
        ("http://testserver/v1/images/shelf/gone", 404, "image_not_found"),
        ("/v1/images/nowhere/gone", 404, "collection_not_found"),
        ("https://example.com/cat.png", 400, "image_url_not_allowed"),
        ("data:image/png;base64,AAAA", 400, "unreadable_image"),
    ],
)
def test_pictures_that_are_not_there(
    server: httpx.Client, url: str, status: int, code: str
) -> None:
    parts = [{"type": "image_url", "image_url": {"url": url}}]
    response = post(server, messages=[{"role": "user", "content": parts}])
    error = response.json()["error"]
    assert (response.status_code, error["code"]) == (status, code)
    assert error["param"] == "messages.0.content.0.image_url.url"


def test_a_large_body_and_another_content_type(server: httpx.Client) -> None:
    with pytest.raises(openai.APIStatusError) as raised:
        openai.OpenAI(base_url=f"{server.base_url}/v1", api_key="x", max_retries=0).post(
            "/chat/completions", body=BODY | {"user": "x" * 2_000_000}, cast_to=object
        )
    assert raised.value.status_code == 413
    assert raised.value.code == "body_too_large"
    response = server.post("/v1/chat/completions", content=b"{}")
    assert response.status_code == 415


def test_the_bytes_of_a_stream(server: httpx.Client) -> None:
    """Each chunk is one `data:` line in ASCII; nothing but [DONE] comes after the usage."""
    body = BODY | {"stream": True, "n": 2, "stream_options": {"include_usage": True}}
    with server.stream("POST", "/v1/chat/completions", json=body) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        sent = b"".join(response.iter_bytes())
    assert sent.isascii()
    frames = [frame.data for frame in SSEParser().feed(sent)]
    assert frames[-1] == "[DONE]"
    chunks = [json.loads(frame) for frame in frames[:-1]]
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    ends = [c["choices"][0] for c in chunks[:-1] if c["choices"][0]["finish_reason"]]
    assert sorted(choice["index"] for choice in ends) == [0, 1]
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["completion_tokens"] > 0
    whole = told(post(server, n=2))
    assert [c["message"]["content"] for c in whole["choices"]] == [
        "".join(
            chunk["choices"][0]["delta"].get("content", "")
            for chunk in chunks[:-1]
            if chunk["choices"][0]["index"] == i
        )
        for i in range(2)
    ]


def test_choices_take_turns(server: httpx.Client) -> None:
    body = BODY | LONG | {"stream": True, "n": 2, "max_tokens": 200}
    order: list[int] = []
    with server.stream("POST", "/v1/chat/completions", json=body) as response:
        for line in response.iter_lines():
            if '"content":"' in line:
                order.append(json.loads(line.removeprefix("data: "))["choices"][0]["index"])
    turns = sum(a != b for a, b in itertools.pairwise(order))
    assert turns > 3


def test_addresses_are_those_that_the_client_reaches(server: httpx.Client) -> None:
    def address(**headers: str) -> str:
        response = server.post(
            "/v1/chat/completions",
            json=BODY | {"ret_scale_factor": 100},
            headers={name.replace("_", "-"): value for name, value in headers.items()},
        )
        url: str = told(response)["choices"][0]["message"]["images"][0]["image_url"]["url"]
        return url.partition("/v1/images/")[0]

    assert address() == str(server.base_url).rstrip("/")
    assert address(host="pictures.example:81") == "http://pictures.example:81"
    proxied = {"x_forwarded_proto": "https, http", "x_forwarded_host": "a.example, b.example"}
    assert address(**proxied) == "https://a.example"
    assert address(**proxied, x_forwarded_prefix="/fromage/") == "https://a.example/fromage"
    # Nothing that could end the address, or lead it elsewhere, is taken over.
    ours = str(server.base_url).rstrip("/")
    for host in ("a.example/x", "a@b.example", "a.example)](javascript:"):
        assert address(x_forwarded_host=host) == ours
    assert address(x_forwarded_proto="javascript") == ours


@pytest.mark.slow  # a server of its own
def test_a_servers_own_ways_and_its_end(
    tiny_bundle: Path, tiny_collection: Path, tmp_path: Path
) -> None:
    """Its settings decide about pictures; a full queue and an end in the middle are typed."""
    flags = (
        *("--bundle", str(tiny_bundle), "--collection", f"shelf={tiny_collection}"),
        *("--max-batch", "2", "--max-queue", "1", "--shutdown-s", "1"),
        *("--image-delivery", "markdown", "--public-url", "https://pictures.example/fromage/"),
    )
    messages: Any = [USER]
    with (
        start(tmp_path, *flags) as (process, url),
        openai.OpenAI(base_url=f"{url}/v1", api_key="x", max_retries=0) as client,
    ):
        wait_for(process, url, "/readyz")
        shown = client.chat.completions.create(
            model="tiny", messages=messages, max_tokens=8, extra_body={"ret_scale_factor": 100}
        )
        message = shown.choices[0].message
        assert message.content is not None
        assert "](https://pictures.example/fromage/v1/images/shelf/" in message.content
        assert not hasattr(message, "images")
        stream = client.chat.completions.create(
            model="tiny",
            messages=messages,
            n=3,
            max_tokens=4000,
            stream=True,
            extra_body=LONG,
        )
        next(stream)
        with pytest.raises(openai.RateLimitError) as full:
            client.chat.completions.create(model="tiny", messages=messages)
        assert full.value.code == "queue_full"
        assert int(full.value.response.headers["retry-after"]) >= 1
        process.terminate()
        with pytest.raises(openai.APIError) as cut:
            for _ in stream:
                pass
        assert cut.value.code == "engine_dead"
