"""The encoder, read back through the client's parser."""

import json
from typing import Any

from fromage_client import fold as client_fold
from fromage_client.events import parse_event
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
    in_frames,
)
from fromage_server.sse import FRAME_LIMIT, KEEP_ALIVE, SseEncoder


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


def test_a_long_ending_comes_in_frames_under_64_kib() -> None:
    told = [{"token_id": i, "token": "a\n🐱" * 9, "logprob": -1.5} for i in range(3000)]
    ending = {"finish_reason": "stop", "token_ids": list(range(20_000)), "logprobs": told}
    events = list(in_frames(MessageEnd(ending), FRAME_LIMIT))
    encoder = SseEncoder()
    frames = [encoder.frame(*event_data(event)) for event in events]
    assert max(map(len, frames)) < 64 * 1024
    assert len(frames) > 4
    assert isinstance(events[-1], MessageEnd)
    assert (
        fold([MessageStart("x", "m"), *events]) == {"id": "x", "model": "m", "content": []} | ending
    )
    usage = dict.fromkeys(
        ("prompt_tokens", "completion_tokens", "total_tokens", "cached_tokens", "images_in",
         "images_out", "dropped_turns"), 0,
    )  # fmt: skip
    timings = {"queue_ms": 0.0, "ttft_ms": None, "total_ms": 0.0}
    whole = [
        MessageStart("x", "m"),
        *in_frames(MessageEnd({**ending, "usage": usage, "timings": timings}), FRAME_LIMIT),
    ]
    sent = b"".join(encoder.frame(*event_data(event)) for event in whole)
    read = client_fold(e for f in SSEParser().feed(sent) if (e := parse_event(f)) is not None)
    assert read.token_ids == tuple(range(20_000))
    assert read.logprobs is not None
    assert [row.token_id for row in read.logprobs] == list(range(3000))


def test_a_short_ending_is_one_event() -> None:
    ending = MessageEnd({"finish_reason": "stop", "token_ids": [1, 2]})
    assert list(in_frames(ending, FRAME_LIMIT)) == [ending]


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
