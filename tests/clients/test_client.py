import json
import socket
import time
from collections import deque
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest

from fromage_client import (
    Client,
    InvalidRequest,
    MessageEnd,
    NotFound,
    Overloaded,
    ReplyBuilder,
    ServerFailure,
    StreamInterrupted,
    TextDelta,
    TextPart,
    TransportFailed,
    UnexpectedAnswer,
    fold,
)
from fromage_client.messages import INLINE_LIMIT
from fromage_client.transport import retry_after
from tests.clients.scripted import (
    END,
    END_FRAME,
    START_FRAME,
    TIMINGS,
    USAGE,
    Answer,
    ScriptedServer,
    frame,
    image,
    image_part,
    reply_stream,
    stream,
)

HELLO = [{"role": "user", "content": "hello"}]


def answer(body: Any, **options: Any) -> Answer:
    return Answer((json.dumps(body).encode(),), **options)


def error(status: int, type_: str, message: str = "no", **headers: str) -> Answer:
    body = {"type": type_, "code": "c", "message": message, "param": "p"}
    return answer({"error": body}, status=status, headers=headers)


def test_a_chat_and_its_reply(scripted: ScriptedServer, client: Client) -> None:
    content = [{"type": "text", "text": "hi"}, image_part()]
    message = {"role": "assistant", "content": content}
    scripted.script["/v1/chat"] = [answer({"id": "r", "model": "m", "message": message, **END})]
    reply = client.chat(HELLO, temperature=0.5, collection="demo", filter={"count": {"gte": 2}})
    assert (reply.text, reply.images[0].metadata) == ("hi", {"caption": "an elephant"})
    assert (reply.usage.total_tokens, reply.timings.ttft_ms) == (8, 20.0)
    [asked] = scripted.asked
    options = {"temperature": 0.5, "collection": "demo", "filter": {"count": {"gte": 2}}}
    assert asked.json == {"messages": HELLO, **options}
    client.chat([*HELLO, reply.message, *HELLO])
    assert scripted.asked[1].json["messages"][1] == message


def test_the_other_requests(scripted: ScriptedServer, client: Client) -> None:
    scripted.script |= {
        "/v1/generate": [answer({"id": "r", "model": "m", "content": [], **END, "token_ids": [1]})],
        "/v1/retrieve": [answer({"images": [image()], "query_embedding": [0.6, 0.8]})],
        "/v1/score": [
            answer({"scores": [{"log_likelihood": -2, "mean_log_likelihood": -1, "tokens": 2}]})
        ],
        "/v1/uploads": [answer({"id": "u", "width": 2, "height": 3, "expires_at": 9})],
        "/v1/models": [answer({"object": "list", "data": [model := model_card()]})],
        "/v1/collections": [answer({"collections": [collection_card()]})],
        "/v1/images/demo/a1": [Answer((b"bytes",))],
        "/healthz": [answer({"status": "ok"})],
    }
    assert client.generate("Q:", return_token_ids=True).token_ids == (1,)
    retrieval = client.retrieve(["a", b"\xff\xd8\xff"], k=1, return_query_embedding=True)
    assert (retrieval.images[0].id, retrieval.query_embedding) == ("a1", (0.6, 0.8))
    assert client.score("Q:", candidates=["a"])[0].tokens == 2
    assert client.upload(b"\x89PNG\r\n\x1a\n").width == 2
    assert client.models()[0].id == model["id"]
    assert client.collections()[0].default
    assert client.image(retrieval.images[0], size=64) == b"bytes"
    assert client.image("data:image/png;base64,AAE=") == b"\0\1"
    client.health()
    client.ready()
    [upload] = scripted.asked_for("/v1/uploads")
    assert (upload.headers["content-type"], upload.body) == ("image/png", b"\x89PNG\r\n\x1a\n")
    assert scripted.asked_for("/v1/images/demo/a1")[0].path.endswith("?size=64")
    assert scripted.asked_for("/v1/generate")[0].json["prompt"] == "Q:"


def model_card() -> dict[str, Any]:
    return {"id": "demo", "object": "model", "created": 1, "owned_by": "fromage"}


def collection_card() -> dict[str, Any]:
    return {"name": "demo", "size": 10, "dim": 64, "default": True}


def test_a_stream_in_pieces_with_keep_alives(scripted: ScriptedServer, client: Client) -> None:
    end = json.dumps(END, indent=0).replace("\n", "\ndata: ")
    frames = [
        b": keep-alive\n\n",
        START_FRAME,
        frame("text.delta", index=0, text="naïve ✓"),
        b": keep-alive\r\n\r\n",
        frame("image", index=1, **image_part()).replace(b"\n", b"\r\n"),
        f"event: message.end\ndata: {end}\n\n".encode(),
    ]
    whole = b"".join(frames)
    pieces = tuple(whole[at : at + 7] for at in range(0, len(whole), 7))
    scripted.script["/v1/chat"] = [stream(*pieces)]
    reply = fold(client.stream(HELLO, seed=3))
    assert (reply.text, len(reply.images), reply.finish_reason) == ("naïve ✓", 1, "stop")
    assert scripted.asked[0].json == {"messages": HELLO, "seed": 3, "stream": True}


def test_events_are_yielded_when_they_come(scripted: ScriptedServer, client: Client) -> None:
    scripted.script["/v1/chat"] = [reply_stream("a", "b", "c", pause=0.3)]
    started = time.monotonic()
    deltas = [
        time.monotonic() - started for event in client.stream(HELLO) if isinstance(event, TextDelta)
    ]
    assert deltas[0] < deltas[2] - 0.4


def test_leaving_a_stream_hangs_up(scripted: ScriptedServer, client: Client) -> None:
    scripted.script["/v1/generate"] = [stream(START_FRAME, stay=True)]
    events = client.stream_generate("Q:")
    next(events)
    assert not scripted.left.is_set()
    events.close()
    assert scripted.left.wait(5)


@pytest.mark.parametrize("cut", [False, True])
def test_a_stream_that_ends_early_is_no_reply(
    scripted: ScriptedServer, client: Client, cut: bool
) -> None:
    delta = frame("text.delta", index=0, text="hal")
    scripted.script["/v1/chat"] = [stream(START_FRAME, delta, END_FRAME[:-1], cut=cut)]
    builder = ReplyBuilder()
    with pytest.raises(StreamInterrupted):
        deque(map(builder.add, client.stream(HELLO)))
    assert builder.content == [TextPart("hal")]


def test_what_follows_the_end_is_not_waited_for(scripted: ScriptedServer, client: Client) -> None:
    scripted.script["/v1/chat"] = [stream(START_FRAME, END_FRAME, stay=True)]
    assert isinstance(list(client.stream(HELLO))[-1], MessageEnd)


def test_an_error_within_a_stream(scripted: ScriptedServer, client: Client) -> None:
    body = {"type": "server_error", "code": "generation_failed", "message": "oh", "param": None}
    scripted.script["/v1/chat"] = [stream(START_FRAME, frame("error", error=body))]
    with pytest.raises(ServerFailure, match="oh"):
        list(client.stream(HELLO))


@pytest.mark.parametrize(
    ("refusal", "kind"),
    [
        (error(400, "invalid_request_error"), InvalidRequest),
        (error(404, "not_found_error"), NotFound),
        (error(503, "unavailable_error"), Overloaded),
        (error(503, "server_error"), ServerFailure),
        (Answer((b"<html>",), status=502), ServerFailure),
        (Answer((b"<html>",), status=503), Overloaded),
        (Answer((b"<html>",), status=413), InvalidRequest),
    ],
)
def test_refusals_are_typed(
    scripted: ScriptedServer, client: Client, refusal: Answer, kind: type[Exception]
) -> None:
    scripted.script["/v1/chat"] = [refusal]
    with pytest.raises(kind) as whole:
        client.chat(HELLO)
    with pytest.raises(kind) as streamed:
        list(client.stream(HELLO))
    for caught in (whole, streamed):
        assert getattr(caught.value, "status", None) == refusal.status
    assert len(scripted.asked) == 2


def test_a_full_server_is_asked_again(scripted: ScriptedServer, client: Client) -> None:
    full = error(429, "unavailable_error", **{"retry-after": "1"})
    scripted.script["/v1/chat"] = [full, reply_stream("ok")]
    started = time.monotonic()
    assert fold(client.stream(HELLO)).text == "ok"
    assert time.monotonic() - started > 0.9
    assert len(scripted.asked) == 2


def test_a_server_that_stays_full(scripted: ScriptedServer) -> None:
    scripted.script["/v1/chat"] = [error(429, "unavailable_error", **{"retry-after": "0"})]
    with Client(scripted.url, retries=2) as client, pytest.raises(Overloaded) as caught:
        client.chat(HELLO)
    assert caught.value.retry_after == 0
    assert len(scripted.asked) == 3


def test_a_wait_that_is_too_long_is_not_waited(scripted: ScriptedServer, client: Client) -> None:
    scripted.script["/v1/chat"] = [error(503, "unavailable_error", **{"retry-after": "3600"})]
    with pytest.raises(Overloaded) as caught:
        client.chat(HELLO)
    assert caught.value.retry_after == 3600


def test_asking_whether_it_is_ready_never_waits(scripted: ScriptedServer, client: Client) -> None:
    scripted.script["/readyz"] = [error(503, "unavailable_error", "42 %", **{"retry-after": "9"})]
    with pytest.raises(Overloaded, match="42 %"):
        client.ready()


def test_retry_after_is_seconds_or_a_date() -> None:
    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True)
    assert 28 < (retry_after(soon) or 0) <= 30
    assert retry_after("Fri, 01 Jan 2021 00:00:00 GMT") == 0
    assert (retry_after("7"), retry_after(None), retry_after("soon")) == (7, None, None)


def test_no_server_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as placeholder:
        port = placeholder.getsockname()[1]
    with Client(f"http://127.0.0.1:{port}") as client:
        with pytest.raises(TransportFailed, match="cannot reach"):
            client.health()
        with pytest.raises(TransportFailed, match="cannot reach"):
            list(client.stream(HELLO))


def test_no_address_at_all() -> None:
    with Client("localhost") as client, pytest.raises(TransportFailed, match="cannot reach"):
        client.health()


def test_a_silent_server(scripted: ScriptedServer) -> None:
    scripted.script["/v1/chat"] = [stream(START_FRAME, stay=True)]
    hurried = Client(scripted.url, timeout=0.3)
    with hurried, pytest.raises(TransportFailed, match="in time"):
        list(hurried.stream(HELLO))


@pytest.mark.parametrize("body", [b"<html>", b"[]", b"{}", b'{"content": 3}'])
def test_an_answer_from_something_else(
    scripted: ScriptedServer, client: Client, body: bytes
) -> None:
    scripted.script["/v1/chat"] = [Answer((body,))]
    with pytest.raises(UnexpectedAnswer):
        client.chat(HELLO)


def test_usage_and_timings_are_whole(scripted: ScriptedServer, client: Client) -> None:
    scripted.script["/v1/chat"] = [reply_stream("x")]
    reply = fold(client.stream(HELLO))
    assert vars(reply.usage) == USAGE
    assert vars(reply.timings) == TIMINGS


LARGE = b"\x89PNG\r\n\x1a\n" + b"\0" * INLINE_LIMIT


def held(id: str, seconds: int = 3600) -> Answer:
    return answer({"id": id, "width": 9, "height": 9, "expires_at": int(time.time()) + seconds})


def test_a_large_image_is_uploaded_once_for_a_whole_conversation(
    scripted: ScriptedServer, client: Client
) -> None:
    scripted.script["/v1/uploads"] = [held("first")]
    scripted.script["/v1/chat"] = [reply_stream()]
    history = [{"role": "user", "content": [LARGE, "what is this?"]}]
    for _ in range(3):
        list(client.stream(history))
    assert len(scripted.asked_for("/v1/uploads")) == 1
    for request in scripted.asked_for("/v1/chat"):
        shown = request.json["messages"][0]["content"][0]
        assert shown == {"type": "image", "image": {"upload": "first"}}


def test_an_upload_that_expires_soon_or_was_dropped_is_sent_again(
    scripted: ScriptedServer, client: Client
) -> None:
    scripted.script["/v1/uploads"] = [held("short", 30), held("long"), held("again")]
    dropped = {"type": "not_found_error", "code": "upload_not_found", "message": "", "param": ""}
    scripted.script["/v1/chat"] = [
        reply_stream(),
        reply_stream(),
        answer({"error": dropped}, status=404),
        reply_stream(),
    ]
    for _ in range(3):
        list(client.stream([{"role": "user", "content": [LARGE]}]))
    asked = [r.json["messages"][0]["content"][0] for r in scripted.asked_for("/v1/chat")]
    assert [part["image"]["upload"] for part in asked] == ["short", "long", "long", "again"]
