"""Replies as they come: of both clients."""

import asyncio
import json

import pytest

from fromage_client import (
    AsyncClient,
    Client,
    MessageEnd,
    ServerFailure,
    TextDelta,
    TextPart,
    UnexpectedAnswer,
    fold,
)
from tests.clients.scripted import (
    END,
    END_FRAME,
    START_FRAME,
    ScriptedServer,
    frame,
    image_part,
    reply_stream,
    stream,
)

HELLO = [{"role": "user", "content": "hello"}]


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
    """The server holds the connection after the first words: a client that waited for more would
    find none."""
    delta = frame("text.delta", index=0, text="at once")
    scripted.script["/v1/chat"] = [stream(START_FRAME, delta, stay=True)]
    with client.stream(HELLO) as events:
        texts = (event.text for event in events if isinstance(event, TextDelta))
        assert next(texts) == "at once"
        assert not scripted.left.is_set()


def test_leaving_a_stream_hangs_up(scripted: ScriptedServer, client: Client) -> None:
    scripted.script["/v1/generate"] = [stream(START_FRAME, stay=True)]
    with client.stream_generate("Q:") as events:
        first = iter(events)
        next(first)
        assert not scripted.left.is_set()
    assert scripted.left.wait(5)


def test_breaking_the_loop_hangs_up(scripted: ScriptedServer, client: Client) -> None:
    delta = frame("text.delta", index=0, text="hal")
    scripted.script["/v1/chat"] = [stream(START_FRAME, delta, stay=True)]
    events = client.stream(HELLO)
    for event in events:
        if isinstance(event, TextDelta):
            break
    assert scripted.left.wait(5)
    assert events.content == (TextPart("hal"),)
    with pytest.raises(UnexpectedAnswer, match="its end"):
        _ = events.reply
    assert list(events) == []


def test_closing_the_client_hangs_up(scripted: ScriptedServer) -> None:
    scripted.script["/v1/chat"] = [stream(START_FRAME, stay=True)]
    with Client(scripted.url) as client:
        events = iter(client.stream(HELLO))
        next(events)
    assert scripted.left.wait(5)


async def test_closing_the_other_client_hangs_up_too(scripted: ScriptedServer) -> None:
    scripted.script["/v1/chat"] = [stream(START_FRAME, stay=True)]
    async with AsyncClient(scripted.url) as client:
        events = aiter(client.stream(HELLO))
        await anext(events)
    assert await asyncio.to_thread(scripted.left.wait, 5)


def test_nothing_is_asked_before_the_first_event(scripted: ScriptedServer, client: Client) -> None:
    client.stream(HELLO).close()
    assert scripted.asked == []


def test_what_follows_the_end_is_not_waited_for(scripted: ScriptedServer, client: Client) -> None:
    scripted.script["/v1/chat"] = [stream(START_FRAME, END_FRAME, stay=True)]
    events = client.stream(HELLO)
    assert isinstance(list(events)[-1], MessageEnd)
    assert events.reply.text == ""


def test_an_error_within_a_stream(scripted: ScriptedServer, client: Client) -> None:
    body = {"type": "server_error", "code": "generation_failed", "message": "oh", "param": None}
    scripted.script["/v1/chat"] = [stream(START_FRAME, frame("error", error=body))]
    with pytest.raises(ServerFailure, match="oh"):
        list(client.stream(HELLO))


async def test_a_cancelled_task_hangs_up(scripted: ScriptedServer) -> None:
    scripted.script["/v1/chat"] = [stream(START_FRAME, stay=True)]
    async with AsyncClient(scripted.url) as client:
        waiting = asyncio.ensure_future(client.chat(HELLO))
        assert await asyncio.to_thread(scripted.begun.wait, 5)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert await asyncio.to_thread(scripted.left.wait, 5)


async def test_a_task_that_is_cancelled_in_the_middle_hangs_up(scripted: ScriptedServer) -> None:
    delta = frame("text.delta", index=0, text="half")
    scripted.script["/v1/chat"] = [stream(START_FRAME, delta, stay=True)]
    async with AsyncClient(scripted.url) as client:
        events = client.stream(HELLO)
        heard = asyncio.Event()

        async def listen() -> None:
            async for event in events:
                if isinstance(event, TextDelta):
                    heard.set()

        listening = asyncio.ensure_future(listen())
        await heard.wait()
        listening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await listening
        assert await asyncio.to_thread(scripted.left.wait, 5)
    assert events.content == (TextPart("half"),)


async def test_replies_come_side_by_side(scripted: ScriptedServer) -> None:
    """The second is whole while the first is still being waited for."""
    scripted.script["/v1/chat"] = [stream(START_FRAME, stay=True), reply_stream("second")]
    async with AsyncClient(scripted.url) as client, client.stream(HELLO) as first:
        async for _ in first:
            second = client.stream(HELLO)
            texts = [event.text async for event in second if isinstance(event, TextDelta)]
            break
        assert texts == ["second"]
