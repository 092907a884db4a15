"""The `openai` package against the demo: only its `base_url` is ours."""

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import httpx
import openai
import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from tests.server.completions.conftest import DOG, Demo

Json = dict[str, Any]
ASKED: Any = [{"role": "user", "content": "show me a dog"}]


def create(client: openai.OpenAI, messages: Any = ASKED, **options: Any) -> ChatCompletion:
    made = client.chat.completions.create(model="demo", messages=messages, **options)
    assert isinstance(made, ChatCompletion)
    return made


def pictures(message: Any) -> list[Json]:
    """OpenRouter's field, which the package hands on."""
    return list(getattr(message, "images", None) or [])


def urls(message: Any) -> list[str]:
    return [image["image_url"]["url"] for image in pictures(message)]


def folded(chunks: Iterable[ChatCompletionChunk]) -> dict[int, Json]:
    """By choice: its text, pictures, tokens and end."""
    found: dict[int, Json] = defaultdict(lambda: {"text": "", "images": [], "tokens": []})
    for chunk in chunks:
        for choice in chunk.choices:
            one = found[choice.index]
            one["text"] += choice.delta.content or ""
            one["images"] += urls(choice.delta)
            if choice.logprobs is not None:
                one["tokens"] += choice.logprobs.content or []
            one["end"] = choice.finish_reason
    return dict(found)


def test_models(client: openai.OpenAI) -> None:
    [model] = client.models.list()
    assert (model.id, model.object, model.owned_by) == ("demo", "model", "fromage")
    assert client.models.retrieve("demo") == model
    with pytest.raises(openai.NotFoundError, match="'demo'") as raised:
        client.models.retrieve("openai/gpt-4o")
    assert raised.value.code == "model_not_found"


def test_a_reply_with_its_picture(client: openai.OpenAI) -> None:
    reply = create(client)
    assert (reply.object, reply.model) == ("chat.completion", "demo")
    [choice] = reply.choices
    assert (choice.index, choice.finish_reason, choice.logprobs) == (0, "stop", None)
    message = choice.message
    [image] = pictures(message)
    url = image["image_url"]["url"]
    caption = image["fromage"]["metadata"]["caption"]
    assert "dog" in caption
    assert message.content is not None
    assert message.content.endswith(f"\n\n![{caption}]({url})")
    assert message.content[: image["fromage"]["text_offset"]].startswith("Here is a dog.")
    assert httpx.get(url).headers["content-type"] == "image/png"
    usage = reply.usage
    assert usage is not None
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    assert usage.to_dict()["images_out"] == 1


def test_a_stream_is_the_same_reply(client: openai.OpenAI) -> None:
    whole = create(client)
    chunks = list(
        client.chat.completions.create(
            model="demo", messages=ASKED, stream=True, stream_options={"include_usage": True}
        )
    )
    assert {chunk.id for chunk in chunks} == {chunks[0].id}
    assert chunks[0].choices[0].delta.role == "assistant"
    assert len([chunk for chunk in chunks if chunk.choices]) > 5
    assert [chunk.usage for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert (chunks[-1].choices, chunks[-1].usage and chunks[-1].usage.total_tokens) == (
        [],
        whole.usage and whole.usage.total_tokens,
    )
    message = whole.choices[0].message
    assert folded(chunks) == {
        0: {"text": message.content, "images": urls(message), "tokens": [], "end": "stop"}
    }
    # Nobody asked: no chunk without a choice.
    plain = client.chat.completions.create(model="demo", messages=ASKED, stream=True)
    assert all(chunk.choices for chunk in plain)


def test_the_packages_own_folding(client: openai.OpenAI) -> None:
    """Its stream helper puts the chunks together as it understands them."""
    whole = create(client).choices[0].message
    with client.chat.completions.stream(model="demo", messages=ASKED) as stream:
        for _ in stream:
            pass
        message = stream.get_final_completion().choices[0].message
    assert (message.role, message.content) == ("assistant", whole.content)
    assert urls(message) == urls(whole)


async def test_the_async_client(demo: Demo) -> None:
    async with openai.AsyncOpenAI(base_url=f"{demo.url}/v1", api_key="none") as client:
        whole = await client.chat.completions.create(model="demo", messages=ASKED)
        stream = await client.chat.completions.create(model="demo", messages=ASKED, stream=True)
        chunks = [chunk async for chunk in stream]
    message = whole.choices[0].message
    found = folded(chunks)[0]
    assert (found["text"], found["images"]) == (message.content, urls(message))


def test_choices_use_the_seed_and_those_after_it(client: openai.OpenAI) -> None:
    warm: Json = {"temperature": 1.2, "max_tokens": 24}
    together = create(client, n=3, seed=5, **warm)
    alone = [create(client, seed=5 + i, **warm) for i in range(3)]
    assert [choice.index for choice in together.choices] == [0, 1, 2]
    texts = [choice.message.content for choice in together.choices]
    assert texts == [reply.choices[0].message.content for reply in alone]
    assert len(set(texts)) > 1
    assert together.usage is not None
    used = [reply.usage for reply in alone if reply.usage is not None]
    assert together.usage.prompt_tokens == used[0].prompt_tokens
    assert together.usage.completion_tokens == sum(one.completion_tokens for one in used)
    streamed = folded(
        client.chat.completions.create(
            model="demo", messages=ASKED, n=3, seed=5, stream=True, **warm
        )
    )
    assert [streamed[i]["text"] for i in range(3)] == texts


def test_logprobs(client: openai.OpenAI) -> None:
    options: Json = {"logprobs": True, "top_logprobs": 3}
    whole = create(client, **options).choices[0]
    assert whole.logprobs is not None
    tokens = whole.logprobs.content
    assert tokens
    told = "".join(token.token for token in tokens)
    assert whole.message.content is not None
    assert told == " " + whole.message.content.partition("\n\n")[0] + "[RET]"
    for token in tokens:
        assert token.logprob <= 0
        assert bytes(token.bytes or []).decode() == token.token
        assert len(token.top_logprobs) == 3
        # Greedy: the likeliest.
        assert (token.top_logprobs[0].token, token.top_logprobs[0].logprob) == (
            token.token,
            token.logprob,
        )
    streamed = folded(
        client.chat.completions.create(model="demo", messages=ASKED, stream=True, **options)
    )
    assert [token.token for token in streamed[0]["tokens"]] == [token.token for token in tokens]
    assert [token.logprob for token in streamed[0]["tokens"]] == pytest.approx(
        [token.logprob for token in tokens], abs=1e-3
    )
    plain = create(client, logprobs=True).choices[0].logprobs
    assert plain is not None
    assert [token.top_logprobs for token in plain.content or []] == [[]] * len(tokens)


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_where_a_reply_ends(client: openai.OpenAI, name: str) -> None:
    [short] = create(client, **{name: 2}).choices
    assert (short.message.content, short.finish_reason) == ("Here is", "length")
    for stop in (" dog", [" cow", " dog"]):
        [stopped] = create(client, stop=stop).choices
        assert (stopped.message.content, stopped.finish_reason) == ("Here is a", "stop")


def test_pictures_that_are_sent(client: openai.OpenAI, demo: Demo) -> None:
    """As data, as an upload, and by the address of a picture that was shown: one answer."""
    upload = httpx.post(
        f"{demo.url}/v1/uploads", content=demo.dog, headers={"content-type": "image/png"}
    ).json()["id"]
    found = httpx.post(f"{demo.url}/v1/retrieve", json={"prompt": "a dog", "k": 50}).json()
    [path] = {i["url"] for i in found["images"] if i["metadata"]["caption"] == DOG}
    answers = []
    for url in (demo.dog_uri, f"upload:{upload}", path, f"https://elsewhere.example{path}?size=64"):
        parts = [
            {"type": "image_url", "image_url": {"url": url, "detail": "low"}},
            {"type": "text", "text": "what is this?"},
        ]
        reply = create(client, [{"role": "user", "content": parts}])
        assert reply.usage is not None
        assert reply.usage.to_dict()["images_in"] == 1
        answers.append(reply.choices[0].message.content)
    assert answers == ["This is a dog on a red background."] * 4


@pytest.mark.parametrize("delivery", ["field", "markdown", "both"])
def test_a_reply_sent_back_shows_something_else(
    client: openai.OpenAI, demo: Demo, delivery: str
) -> None:
    """However its pictures came, the history is the one that /v1/chat would have made."""
    extra = {"image_delivery": delivery}
    first = create(client, extra_body=extra).choices[0].message
    second = create(client, [*ASKED, first.to_dict(), *ASKED], extra_body=extra)
    own: Json = {"messages": [*ASKED]}
    for _ in range(2):
        reply = httpx.post(f"{demo.url}/v1/chat", json=own, timeout=60).json()
        own["messages"] += [reply["message"], *ASKED]
    assert second.usage is not None
    assert second.usage.prompt_tokens == reply["usage"]["prompt_tokens"]
    shown = next(part for part in reply["message"]["content"] if part["type"] == "image")
    message = second.choices[0].message
    assert shown["image"]["url"] in f"{message.content} {pictures(message)}"
    assert shown["image"]["url"] not in f"{first.content} {pictures(first)}"


def test_how_pictures_come(client: openai.OpenAI) -> None:
    came = {}
    for delivery in ("field", "markdown", "both", "none"):
        message = create(client, extra_body={"image_delivery": delivery}).choices[0].message
        assert message.content is not None
        came[delivery] = ("![" in message.content, len(pictures(message)))
    assert came == {
        "field": (False, 1),
        "markdown": (True, 0),
        "both": (True, 1),
        "none": (False, 0),
    }
    inline = create(client, extra_body={"image_format": "base64"}).choices[0].message
    [image] = pictures(inline)
    assert image["image_url"]["url"].startswith("data:image/jpeg;base64,")
    assert inline.content is not None
    assert inline.content.endswith(f"({image['image_url']['url']})")


def test_this_servers_own_options(client: openai.OpenAI) -> None:
    """As extra fields, with the ranges of /v1/chat."""
    none = create(client, extra_body={"max_num_rets": 0}).choices[0].message
    assert pictures(none) == []
    several = create(client, extra_body={"max_img_per_ret": 3, "filter": {"objects": "cow"}})
    message = several.choices[0].message
    captions = [image["fromage"]["metadata"]["caption"] for image in pictures(message)]
    assert len(captions) == 3
    assert all("cow" in caption for caption in captions)
    # One [RET]'s pictures are one paragraph.
    assert message.content is not None
    assert message.content.partition("\n\n")[2].count("\n") == 2
    with pytest.raises(openai.BadRequestError) as raised:
        create(client, extra_body={"ret_scale_factor": 101})
    assert raised.value.param == "ret_scale_factor"
    with pytest.raises(openai.NotFoundError) as missing:
        create(client, extra_body={"collection": "nowhere"})
    assert missing.value.code == "collection_not_found"


def test_the_system_speaks_in_two_names(client: openai.OpenAI) -> None:
    said = [
        create(client, [{"role": role, "content": "Be brief."}, *ASKED])
        for role in ("system", "developer")
    ]
    assert said[0].choices[0].message.content == said[1].choices[0].message.content
    assert said[0].usage is not None
    plain = create(client).usage
    assert plain is not None
    assert said[0].usage.prompt_tokens > plain.prompt_tokens


@pytest.mark.parametrize(
    ("options", "error", "code", "param"),
    [
        ({"model": "gpt-4o"}, openai.NotFoundError, "model_not_found", "model"),
        ({"temperature": 3}, openai.BadRequestError, "invalid_value", "temperature"),
        (
            {"tools": [{"type": "function", "function": {"name": "f"}}]},
            *(openai.BadRequestError, "unsupported_value", "tools"),
        ),
        (
            {"max_completion_tokens": 1020},
            *(openai.BadRequestError, "context_length_exceeded", "messages"),
        ),
        (
            {"max_completion_tokens": 2000},
            *(openai.BadRequestError, "invalid_value", "max_completion_tokens"),
        ),
        ({"messages": []}, openai.BadRequestError, "invalid_value", "messages"),
        ({"n": 100}, openai.BadRequestError, "invalid_value", "n"),
        ({"extra_body": {"tempo": 1}}, openai.BadRequestError, "unknown_field", "tempo"),
    ],
)
def test_typed_errors(
    client: openai.OpenAI,
    options: Json,
    error: type[openai.APIStatusError],
    code: str,
    param: str,
) -> None:
    for stream in (False, True):
        with pytest.raises(error) as raised:
            client.chat.completions.create(
                **{"model": "demo", "messages": ASKED, "stream": stream} | options
            )
        assert (raised.value.code, raised.value.param) == (code, param)
