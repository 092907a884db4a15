"""Replies to clients that may leave before the end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Coroutine
from contextlib import aclosing, suppress
from typing import Any, Protocol, TypeVar

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from fromage_server.errors import ApiError
from fromage_server.reply import Reply, event_data, in_frames
from fromage_server.sse import FRAME_LIMIT, KEEP_ALIVE, SseEncoder

log = logging.getLogger(__name__)
T = TypeVar("T")


class ClientLeft(Exception):
    """Nobody waits for the answer any more."""


async def unless_gone(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """The result of ``work``, which is cancelled when the client leaves; then raises ClientLeft."""
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_disconnect(request.receive))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientLeft
        return task.result()
    finally:
        await _cancel(gone)
        await _cancel(task)


class FrameSource(Protocol):
    """What a stream sends; ``cancel`` is called when nobody reads on, and does nothing after the
    end."""

    def frames(self) -> AsyncGenerator[bytes]: ...
    def failed(self, error: ApiError) -> bytes: ...
    def cancel(self) -> None: ...


class ReplyFrames:
    """A reply as this server's own events."""

    def __init__(self, reply: Reply) -> None:
        self._reply = reply
        self._encoder = SseEncoder()

    async def frames(self) -> AsyncGenerator[bytes]:
        async for event in self._reply.events():
            for part in in_frames(event, FRAME_LIMIT):
                yield self._encoder.frame(*event_data(part))

    def failed(self, error: ApiError) -> bytes:
        return self._encoder.frame("error", error.envelope())

    def cancel(self) -> None:
        self._reply.cancel()


class EventStreamResponse(Response):
    """Server-sent events. What makes them is cancelled when the client leaves; an error after the
    first byte is an event, since the status has gone out."""

    media_type = "text/event-stream"

    def __init__(self, source: FrameSource, keepalive_s: float) -> None:
        self.status_code = 200
        self.background = None
        self.init_headers({"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._source = source
        self._keepalive_s = keepalive_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        pump = asyncio.ensure_future(self._pump(send))
        gone = asyncio.ensure_future(_disconnect(receive))
        try:
            await asyncio.wait({pump, gone}, return_when=asyncio.FIRST_COMPLETED)
            if pump.done():
                pump.result()
        finally:
            self._source.cancel()
            await _cancel(gone)
            await _cancel(pump)

    async def _pump(self, send: Send) -> None:
        start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        await send(start)
        sender = _Sender(send)
        filler = asyncio.ensure_future(sender.fill_silence(self._keepalive_s))
        try:
            async with aclosing(self._frames()) as frames:
                async for frame in frames:
                    await sender.send(frame)
        finally:
            await _cancel(filler)
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _frames(self) -> AsyncGenerator[bytes]:
        try:
            async with aclosing(self._source.frames()) as frames:
                async for frame in frames:
                    yield frame
        except ApiError as error:
            yield self._source.failed(error)
        except Exception:
            log.exception("a stream failed")
            yield self._source.failed(
                ApiError("internal_error", "the server failed; its log says why")
            )


class _Sender:
    """Sends parts of a body, and knows when it last did."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._now = asyncio.get_running_loop().time
        self._last = self._now()

    async def send(self, frame: bytes) -> None:
        await self._send({"type": "http.response.body", "body": frame, "more_body": True})
        self._last = self._now()

    async def fill_silence(self, seconds: float) -> None:
        """A comment whenever nothing was sent for so long: proxies cut silent streams. One task
        for all frames of a stream: a timer for each would cost more than the frame."""
        while True:
            rest = self._last + seconds - self._now()
            if rest > 0:
                await asyncio.sleep(rest)
            else:
                await self.send(KEEP_ALIVE)


async def _disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _cancel(task: asyncio.Future[Any]) -> None:
    """Ends a task and takes its result, so that nothing is left unread."""
    task.cancel()
    with suppress(asyncio.CancelledError, Exception):
        await task
