import json
from typing import Any

import pytest

from fromage_client import (
    ImageShown,
    InvalidRequest,
    MessageStart,
    NotFound,
    Reply,
    ServerError,
    ServerFailure,
    TextDelta,
    Unavailable,
    UnexpectedAnswer,
    fold,
)
from fromage_client.events import Event, parse_event
from fromage_client.sse import Frame, SSEParser
from tests.clients.scripted import END, END_FRAME, START_FRAME, frame, image_part


def events(*frames: bytes) -> list[Event]:
    found = (parse_event(raw) for raw in SSEParser().feed(b"".join(frames)))
    return [event for event in found if event is not None]


def test_folding_the_events_gives_the_json_reply() -> None:
    streamed = events(
        START_FRAME,
        frame("text.delta", index=0, text="Here "),
        frame("text.delta", index=0, text="it is:"),
        frame("image", index=1, **image_part()),
        frame("image", index=2, **image_part(id="a2")),
        frame("text.delta", index=3, text=" Nice?"),
        END_FRAME,
    )
    content = [
        {"type": "text", "text": "Here it is:"},
        image_part(),
        image_part(id="a2"),
        {"type": "text", "text": " Nice?"},
    ]
    answer: dict[str, Any] = {"id": "r1", "model": "demo", **END}
    chat = Reply.from_json({**answer, "message": {"role": "assistant", "content": content}}, "")
    assert fold(streamed) == chat == Reply.from_json({**answer, "content": content}, "")
    assert chat.text == "Here it is: Nice?"
    assert [image.id for image in chat.images] == ["a1", "a2"]
    assert chat.message == {"role": "assistant", "content": content}


def test_token_ids_and_logprobs_come_with_the_end() -> None:
    top = {"token_id": 4, "token": " a", "logprob": -0.25}
    extra = {"token_ids": [4, 9], "logprobs": [{**top, "top": [top]}]}
    reply = fold(events(START_FRAME, frame("message.end", **END, **extra)))
    assert reply.token_ids == (4, 9)
    assert reply.logprobs is not None
    assert reply.logprobs[0].top[0].logprob == -0.25
    assert reply.content == ()


def test_keys_and_events_of_a_later_version_are_passed_over() -> None:
    seen = events(
        frame("message.start", id="r1", model="demo", new=1),
        frame("message.thought", text="hm"),
        frame("image", index=0, **image_part(new=1)),
    )
    assert [type(event) for event in seen] == [MessageStart, ImageShown]


@pytest.mark.parametrize(
    ("type_", "kind"),
    [
        ("invalid_request_error", InvalidRequest),
        ("not_found_error", NotFound),
        ("unavailable_error", Unavailable),
        ("server_error", ServerFailure),
        ("a_new_type", ServerFailure),
    ],
)
def test_an_error_event_is_raised_typed(type_: str, kind: type[ServerError]) -> None:
    body = {"type": type_, "code": "some_code", "message": "went wrong", "param": "messages.0"}
    with pytest.raises(ServerError, match="went wrong") as caught:
        events(START_FRAME, frame("error", error=body))
    assert type(caught.value) is kind
    assert (caught.value.code, caught.value.param) == ("some_code", "messages.0")
    assert caught.value.status is None


@pytest.mark.parametrize(
    "raw",
    [
        Frame("text.delta", "{", ""),
        Frame("text.delta", "[]", ""),
        Frame("text.delta", '{"index": 0}', ""),
        Frame("image", '{"index": 0, "ret_index": 0, "image": {"id": "a"}}', ""),
        Frame("message.end", json.dumps({"finish_reason": "stop"}), ""),
    ],
)
def test_data_that_is_not_what_the_name_promises(raw: Frame) -> None:
    with pytest.raises(UnexpectedAnswer, match=raw.event):
        parse_event(raw)


def test_a_reply_needs_its_start_its_end_and_its_order() -> None:
    start, end = events(START_FRAME, END_FRAME)
    for part in ([start], [end]):
        with pytest.raises(UnexpectedAnswer, match="without its start or its end"):
            fold(part)
    with pytest.raises(UnexpectedAnswer, match="part 1 came after 0"):
        fold([start, TextDelta(1, "x"), end])
