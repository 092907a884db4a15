"""What a reply became in OpenAI's form, sent back: the same history as in this server's own."""

import random
from typing import Any

import pytest

from fromage_server.completions.history import parts_of, to_chat
from fromage_server.completions.rendering import Rendering
from fromage_server.prompt import assistant_text
from fromage_server.reply import ContentBuilder, ImageShown, TextDelta
from fromage_server.schema.completions import CompletionMessage, CompletionRequest, ImageDelivery
from fromage_server.schema.parts import ImagePart, Part, TextPart

Json = dict[str, Any]
Shown = TextDelta | ImageShown
BASE = "https://pictures.example/fromage"
RET = "[RET]"
USER = {"role": "user", "content": "hi"}
PIECES = ("here it is", " and more", ".\n", "a list:\n\n- x", "?", " (so)", "[a](b)", "é", "\n\n")


def image(ret_index: int, number: int, url: str | None = None) -> Json:
    id = f"id {number}"
    return {
        "type": "image",
        "ret_index": ret_index,
        "image": {
            "id": id,
            "collection": "my pictures",
            "key": f"a [strange] (key) {number}.png",
            "url": url or f"/v1/images/my%20pictures/id%20{number}",
            "score": 0.5,
            "width": 2,
            "height": 2,
            "metadata": {"caption": f"no. {number} of ](many)\nlines \\"},
        },
        "alternatives": [],
    }


def random_reply(rng: random.Random, *, inline: bool) -> list[Shown]:
    """Text in pieces, and [RET]s with one to three pictures each."""
    content, events, numbers = ContentBuilder(), list[Shown](), iter(range(99))
    for ret_index in range(rng.randrange(4)):
        for _ in range(rng.randrange(3)):
            events += content.text(rng.choice(PIECES))
        for _ in range(rng.randrange(1, 4)):
            number = next(numbers)
            url = f"data:image/jpeg;base64,AAA{number}=" if inline else None
            events.append(content.image(image(ret_index, number, url)))
    events += content.text(rng.choice(PIECES))
    return events


def as_message(events: list[Shown], delivery: ImageDelivery) -> Json:
    rendering = Rendering(delivery, BASE)
    message: Json = {"role": "assistant", "content": "", "images": []}
    for event in events:
        for delta in rendering.deltas(event):
            message["content"] += delta.get("content", "")
            message["images"] += delta.get("images", [])
    return message


def own_parts(events: list[Shown]) -> list[Part]:
    return [
        ImagePart.model_validate(event.part)
        if isinstance(event, ImageShown)
        else TextPart(text=event.text)
        for event in events
    ]


def shown(parts: list[Part]) -> list[tuple[str | None, str | None]]:
    refs = [part.ref for part in parts if not isinstance(part, TextPart)]
    return [(ref.collection, ref.id) for ref in refs if ref is not None]


@pytest.mark.parametrize("delivery", ["field", "markdown", "both"])
@pytest.mark.parametrize("inline", [False, True])
def test_any_reply_comes_back_as_it_was(delivery: ImageDelivery, inline: bool) -> None:
    """The text with its [RET]s, to the character; and which pictures were shown, where the form
    can say so: markdown with data URIs cannot."""
    rng = random.Random(11)
    pictures = 0
    for _ in range(300):
        events = random_reply(rng, inline=inline)
        message = CompletionMessage.model_validate(as_message(events, delivery))
        parts = parts_of(message)
        own = own_parts(events)
        assert assistant_text(parts, RET) == assistant_text(own, RET)
        assert shown(parts) == ([] if inline and delivery == "markdown" else shown(own))
        pictures += len(shown(own))
    assert pictures > 300


def test_a_client_may_strip_a_text() -> None:
    told = f"here\n\n![a dog]({BASE}/v1/images/demo/x)\n\n"
    for content in (told, told.strip(), [{"type": "text", "text": told}]):
        message = CompletionMessage.model_validate({"role": "assistant", "content": content})
        assert assistant_text(parts_of(message), RET) == "here[RET]"


def test_pictures_of_other_servers_are_rets_too() -> None:
    """Without a place they stand at the end."""
    entry = {"type": "image_url", "image_url": {"url": "https://elsewhere.example/x.png"}}
    message = CompletionMessage.model_validate(
        {"role": "assistant", "content": "look", "images": [entry, entry | {"index": 1}]}
    )
    assert assistant_text(parts_of(message), RET) == "look[RET]"
    only = CompletionMessage.model_validate(
        {"role": "assistant", "content": None, "images": [entry]}
    )
    assert assistant_text(parts_of(only), RET) == "[RET]"


def test_an_offset_beyond_the_text_is_its_end() -> None:
    """A client may have shortened what it sends back."""
    entry = {
        "image_url": {"url": "data:,"},
        "fromage": {"collection": "demo", "id": "x", "ret_index": 0, "text_offset": 99},
    }
    message = CompletionMessage.model_validate(
        {"role": "assistant", "content": "short", "images": [entry]}
    )
    assert assistant_text(parts_of(message), RET) == "short[RET]"


def test_a_users_markdown_is_text() -> None:
    text = "why does ![this](https://a.example/b.png) not show?"
    body = CompletionRequest.model_validate(
        {"model": "m", "messages": [{"role": "user", "content": text}]}
    )
    [message] = to_chat(body).messages
    assert message.content == [TextPart(text=text)]


@pytest.mark.parametrize("piece", ["![", "![](", "![a](b", "\n\n"])
def test_hostile_texts_are_text(piece: str) -> None:
    """Quadratic patterns would not end here."""
    text = piece * 200_000
    message = CompletionMessage.model_validate({"role": "assistant", "content": text})
    assert assistant_text(parts_of(message), RET) == text


def test_the_options_mean_what_they_mean_in_a_chat() -> None:
    body = CompletionRequest.model_validate(
        {
            "model": "m",
            "messages": [
                {"role": "developer", "content": "be brief"},
                {"role": "user", "content": "hi", "name": "Ann"},
            ],
            "max_completion_tokens": 7,
            "seed": -1,
            "top_p": 0,
            "temperature": 1.5,
            "logprobs": True,
            "stop": "x",
            "collection": "c",
            "filter": {"a": 1},
            "min_score": 0.1,
            "exclude_shown": False,
            "truncation": "oldest_turns",
            "ret_scale_factor": 2.0,
            "max_num_rets": 3,
            "max_img_per_ret": 2,
            "min_word_tokens": 1,
        }
    )
    chat = to_chat(body)
    assert [message.role for message in chat.messages] == ["system", "user"]
    assert chat.model_dump(exclude={"messages"}, exclude_defaults=True) == {
        "max_tokens": 7,
        "seed": 2**63 - 1,
        "logprobs": 0,
        "stop": ["x"],
        "collection": "c",
        "filter": {"a": 1},
        "min_score": 0.1,
        "exclude_shown": False,
        "truncation": "oldest_turns",
        "ret_scale_factor": 2.0,
        "max_num_rets": 3,
        "max_img_per_ret": 2,
        "min_word_tokens": 1,
    }
    plain = to_chat(CompletionRequest.model_validate({"model": "m", "messages": [USER]}))
    assert plain == to_chat(
        CompletionRequest.model_validate({"model": "m", "messages": [USER], "n": None})
    )
    assert plain.logprobs is None
