"""Messages and parts to text items and image slots."""

from collections.abc import Sequence

import pytest

from fromage_server.prompt import (
    Item,
    Picture,
    assistant_text,
    drop_oldest,
    encode,
    end_in_ret,
    render_message,
    render_parts,
)
from fromage_server.schema.requests import ChatRequest, GenerateRequest, Message
from fromage_weights.bundle import ChatTemplate

REFERENCE = ChatTemplate(image_position="before")
DEMO = ChatTemplate(image="({image}) ")
PICTURE = {"type": "image", "image": {"collection": "c", "id": "x"}}


def text(words: str) -> dict[str, str]:
    return {"type": "text", "text": words}


def shown(ret_index: int | None = None, id: str = "x") -> dict[str, object]:
    return {"type": "image", "ret_index": ret_index, "image": {"collection": "c", "id": id}}


def message(role: str, content: object) -> Message:
    return Message.model_validate({"role": role, "content": content})


def rendered(found: Message, template: ChatTemplate) -> list[str | None]:
    items = render_message(found, 0, template, "[RET]")
    return [item if isinstance(item, str) else None for item in items]


@pytest.mark.parametrize(
    ("role", "content", "template", "items"),
    [
        ("user", "hi", REFERENCE, ["Q: hi\nA:"]),
        ("assistant", "hello", REFERENCE, [" hello\n"]),
        ("system", "be brief", REFERENCE, ["be brief\n"]),
        (
            "user",
            [text("what is "), PICTURE, text("this?")],
            REFERENCE,
            [None, "Q: what is this?\nA:"],
        ),
        ("user", [PICTURE, text("this?")], DEMO, ["Q: (", None, ") this?\nA:"]),
        ("user", [text("a "), PICTURE, PICTURE], DEMO, ["Q: a (", None, ") (", None, ") \nA:"]),
        ("user", "{content} {image}", DEMO, ["Q: {content} {image}\nA:"]),
        (
            "assistant",
            [text("see "), shown(0), text(" and "), shown(1)],
            DEMO,
            [" see [RET] and [RET]\n"],
        ),
        ("assistant", [], DEMO, [" \n"]),
    ],
)
def test_one_message(
    role: str, content: object, template: ChatTemplate, items: list[str | None]
) -> None:
    assert rendered(message(role, content), template) == items


def test_images_of_one_group_are_one_ret() -> None:
    parts = [shown(0), shown(0, "y"), shown(1), text("and"), shown(1), shown(), shown()]
    assert assistant_text(message("assistant", parts).content, "[RET]") == "[RET][RET]and[RET][RET]"


def test_a_reply_s_keys_are_known() -> None:
    image = {"id": "x", "collection": "c", "key": "k", "url": "/u", "score": 0.5}
    image |= {"width": None, "height": 3, "metadata": {"a": [1]}}
    part = {"type": "image", "ret_index": 0, "image": image, "alternatives": [image]}
    part |= {"query_embedding": [0.1]}
    history = [{"role": "assistant", "content": [part]}, {"role": "user", "content": "more"}]
    body = ChatRequest.model_validate({"messages": [{"role": "user", "content": "a"}, *history]})
    assert assistant_text(body.messages[1].content, "[RET]") == "[RET]"


def test_the_field_of_an_image_is_named() -> None:
    items = render_message(message("user", [text("a"), PICTURE]), 3, REFERENCE, "[RET]")
    (picture,) = [item for item in items if isinstance(item, Picture)]
    assert picture.param == "messages.3.content.1"


@pytest.mark.parametrize(
    ("items", "ended"),
    [
        (["a dog"], ["a dog[RET]"]),
        (["a dog [RET]"], ["a dog [RET]"]),
        (["a dog[RET] \n"], ["a dog[RET] \n"]),
        (["x", "y"], ["x", "y[RET]"]),
    ],
)
def test_ret_at_the_end(items: list[Item], ended: list[Item]) -> None:
    assert end_in_ret(items, "[RET]") == ended


def test_ret_after_an_image() -> None:
    (picture,) = render_parts(
        GenerateRequest.model_validate({"prompt": [PICTURE]}).prompt, "prompt"
    )
    assert end_in_ret([picture], "[RET]") == [picture, "[RET]"]


def lengths(parts: Sequence[str | None]) -> list[tuple[int, ...] | None]:
    """A tokenizer of letters: R is [RET]."""
    return [None if part is None else tuple(map(ord, part)) for part in parts]


def test_positions_count_soft_tokens() -> None:
    body = GenerateRequest.model_validate({"prompt": [text("aRb"), PICTURE, text("R")]})
    prompt = encode(render_parts(body.prompt, "prompt"), lengths, n_visual_tokens=4)
    assert prompt.positions_of(ord("R")) == (1, 7)
    assert prompt.tokens == 8
    assert prompt.text_ids == tuple(map(ord, "aRbR"))
    assert len(prompt.pictures) == 1


@pytest.mark.parametrize(
    ("roles", "limit", "kept", "dropped"),
    [
        ("uaua u", 50, [0, 1, 2, 3, 4], 0),
        ("uaua u", 49, [2, 3, 4], 1),
        ("uaua u", 29, [4], 2),
        ("uaua u", 5, [4], 2),
        ("suau", 30, [0, 3], 1),
        ("usau", 30, [1, 3], 1),
        ("auau", 30, [3], 1),
        ("aauau", 20, [4], 1),
        ("u", 1, [0], 0),
    ],
)
def test_the_oldest_turns_go(roles: str, limit: int, kept: list[int], dropped: int) -> None:
    names = {"u": "user", "a": "assistant", "s": "system"}
    messages = [names[role] for role in roles.replace(" ", "")]
    assert drop_oldest(messages, [10] * len(messages), limit) == (kept, dropped)
