"""What each request says, and how its answer is read: of both clients."""

import inspect
import time
from dataclasses import asdict
from typing import Any

import pytest

from fromage_client import (
    AsyncClient,
    AsyncCollection,
    AsyncConversation,
    Client,
    Collection,
    Conversation,
    Forbidden,
    InvalidRequest,
    NotFound,
    NotReady,
    Overloaded,
    ServerFailure,
    Unavailable,
    UnexpectedAnswer,
    fold,
)
from fromage_client.messages import INLINE_LIMIT
from tests.clients.faces import Face, client_of
from tests.clients.scripted import (
    END,
    TIMINGS,
    USAGE,
    Answer,
    ScriptedServer,
    answer,
    error,
    image,
    image_part,
    reply_stream,
)

HELLO = [{"role": "user", "content": "hello"}]


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
    assert asdict(client.models()[0]) | {"object": "model"} == model
    assert vars(client.collections()[0]) == collection_card()
    assert client.image(retrieval.images[0], size=64) == b"bytes"
    assert client.image("data:image/png;base64,AAE=") == b"\0\1"
    client.health()
    client.ready()
    [upload] = scripted.asked_for("/v1/uploads")
    assert (upload.headers["content-type"], upload.body) == ("image/png", b"\x89PNG\r\n\x1a\n")
    assert scripted.asked_for("/v1/images/demo/a1")[0].path.endswith("?size=64")
    assert scripted.asked_for("/v1/generate")[0].json["prompt"] == "Q:"


def model_card() -> dict[str, Any]:
    frozen = {"language_model": "./lm", "architecture": "opt", "vision_encoder": "./vision"}
    sizes = {"context": 512, "soft_tokens": 1, "shared_dim": 64}
    bundle = {**frozen, **sizes, "device": "cpu", "numbers": "float32"}
    card = {"id": "demo", "object": "model", "created": 1, "owned_by": "fromage"}
    return {**card, "bundle": bundle}


def collection_card() -> dict[str, Any]:
    may = {"default": True, "writable": True, "droppable": False}
    return {"name": "demo", "size": 10, "dim": 64, **may, "created_at": 1, "changed_at": 2}


@pytest.mark.parametrize(
    ("refusal", "kind"),
    [
        (error(400, "invalid_request_error"), InvalidRequest),
        (error(404, "not_found_error"), NotFound),
        (error(429, "unavailable_error", code="queue_full"), Overloaded),
        (error(403, "permission_error"), Forbidden),
        (error(503, "unavailable_error", code="not_ready"), NotReady),
        (error(503, "unavailable_error", code="collection_busy"), Unavailable),
        (error(503, "server_error"), ServerFailure),
        (Answer((b"<html>",), status=502), ServerFailure),
        (Answer((b"<html>",), status=503), Unavailable),
        (Answer((b"<html>",), status=413), InvalidRequest),
    ],
)
def test_refusals_are_typed(
    scripted: ScriptedServer, face: Face, refusal: Answer, kind: type[Exception]
) -> None:
    scripted.script["/v1/chat"] = [refusal]
    with client_of(face, scripted.url, retries=0) as client:
        with pytest.raises(kind) as whole:
            client.chat(HELLO)
        with pytest.raises(kind) as streamed:
            list(client.stream(HELLO))
    for caught in (whole, streamed):
        assert getattr(caught.value, "status", None) == refusal.status
    assert len(scripted.asked) == 2


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


def test_a_text_alone_is_a_question(scripted: ScriptedServer, client: Client) -> None:
    scripted.script["/v1/chat"] = [reply_stream("hi")]
    fold(client.stream("hello"))
    assert scripted.asked[0].json["messages"] == HELLO


def test_an_image_of_another_host_is_asked_for_as_its_url_says(
    scripted: ScriptedServer, client: Client
) -> None:
    scripted.script["/picture"] = [Answer((b"bytes",))]
    assert client.image(f"{scripted.url}/picture?signed=1", size=64) == b"bytes"
    assert [asked.path for asked in scripted.asked] == ["/picture?signed=1"]


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


def test_what_else_is_not_found_is_not_sent_again(scripted: ScriptedServer, client: Client) -> None:
    scripted.script["/v1/uploads"] = [held("first")]
    scripted.script["/v1/chat"] = [error(404, "not_found_error", code="collection_not_found")]
    with pytest.raises(NotFound):
        client.chat([{"role": "user", "content": [LARGE]}])
    assert len(scripted.asked_for("/v1/chat")) == 1


@pytest.mark.parametrize(
    ("blocking", "other"),
    [
        (Client, AsyncClient),
        (Collection, AsyncCollection),
        (Conversation, AsyncConversation),
    ],
)
def test_the_two_clients_take_the_same(blocking: type, other: type) -> None:
    def methods(kind: type) -> dict[str, list[str]]:
        found = inspect.getmembers(kind, inspect.isfunction)
        named = {"close" if name == "aclose" else name: value for name, value in found}
        public = {name: value for name, value in named.items() if not name.startswith("_")}
        return {
            name: [str(parameter) for parameter in inspect.signature(value).parameters.values()]
            for name, value in public.items()
        }

    assert methods(blocking) == methods(other)
    for name in methods(blocking):
        assert getattr(blocking, name).__doc__
