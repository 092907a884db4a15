"""The encoder, read back through the client's parser."""

import json
from typing import Any

from fromage_client.sse import SSEParser
from fromage_server.reply import (
    ContentBuilder,
    ImageShown,
    MessageEnd,
    MessageStart,
    ReplyEvent,
    TextDelta,
    event_data,
    fold,
)
from fromage_server.sse import KEEP_ALIVE, LINE_LIMIT, SseEncoder


def test_frames_are_read_back() -> None:
    encoder = SseEncoder()
    texts = ["a", "two\nlines\r\n", "U+2028 \u2028, NEL \x85, é 🐱", ""]
    sent = b"".join(encoder.frame("text.delta", {"index": 0, "text": text}) for text in texts)
    frames = list(SSEParser().feed(sent))
    assert [frame.event for frame in frames] == ["text.delta"] * 4
    assert [json.loads(frame.data)["text"] for frame in frames] == texts
    assert [frame.id for frame in frames] == ["0", "1", "2", "3"]


def test_a_keep_alive_is_no_event() -> None:
    assert list(SSEParser().feed(KEEP_ALIVE)) == []


def test_long_data_goes_out_in_short_lines() -> None:
    data = {
        "logprobs": [{"token_id": i, "token": "a\nb" * 9, "logprob": -1.5} for i in range(3000)]
    }
    sent = SseEncoder().frame("message.end", data)
    assert len(sent) > LINE_LIMIT
    assert max(map(len, sent.split(b"\n"))) < LINE_LIMIT
    (frame,) = SSEParser().feed(sent)
    assert json.loads(frame.data) == data


def test_a_fold_is_the_reply() -> None:
    content = ContentBuilder()
    part: dict[str, Any] = {"type": "image", "ret_index": 0, "image": {"id": "x"}}
    events: list[ReplyEvent] = [
        MessageStart("chat_1", "m"),
        *content.text("a "),
        *content.text(""),
        *content.text("dog"),
        content.image(part),
        content.image(part),
        *content.text("bye"),
        MessageEnd({"finish_reason": "stop"}),
    ]
    assert fold(events) == {
        "id": "chat_1",
        "model": "m",
        "content": [{"type": "text", "text": "a dog"}, part, part, {"type": "text", "text": "bye"}],
        "finish_reason": "stop",
    }
    assert [event.index for event in events if isinstance(event, TextDelta)] == [0, 0, 3]
    assert [event.index for event in events if isinstance(event, ImageShown)] == [1, 2]
    assert content.images == 2


def test_an_image_event_is_the_part_with_its_index() -> None:
    name, data = event_data(ImageShown(2, {"type": "image", "ret_index": 1}))
    assert (name, data) == ("image", {"index": 2, "type": "image", "ret_index": 1})
