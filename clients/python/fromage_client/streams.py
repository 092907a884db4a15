"""Replies as they come: events to iterate over, and what they add up to."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from typing import Any

from .errors import Interrupted
from .events import Event, MessageEnd, ReplyBuilder, parse_event
from .exchange import Body
from .reply import Part, Reply
from .sse import Frame, SSEParser
from .wire import run


class EventReader:
    """The events of one stream, whose request goes out when the first is asked for.

    `ended` is called once, with the content so far, when the stream has ended, failed or was left.
    """

    def __init__(
        self,
        begin: Callable[[], Awaitable[Body]],
        server: str,
        ended: Callable[[tuple[Part, ...]], None] = lambda content: None,
    ) -> None:
        self.builder = ReplyBuilder()
        self._begin = begin
        self._server = server
        self._ended = ended
        self._parser = SSEParser()
        self._frames: deque[Frame] = deque()
        self._body: Body | None = None
        self._closed = False

    async def next(self) -> Event | None:
        """The next event; None after the last. Whatever it raises, the stream is to be closed."""
        if self._closed:
            return None
        event = await self._event()
        self.builder.add(event)
        if isinstance(event, MessageEnd):
            await self.close()
        return event

    async def close(self) -> None:
        """Hangs up, at which the server stops."""
        if self._closed:
            return
        self._closed = True
        try:
            if self._body is not None:
                await self._body.close()
        finally:
            self._ended(tuple(self.builder.content))

    async def _event(self) -> Event:
        if self._body is None:
            self._body = await self._begin()
        while True:
            while self._frames:
                event = parse_event(self._frames.popleft(), self._server)
                if event is not None:
                    return event
            chunk = await self._body.chunk()
            if not chunk:
                raise Interrupted("the stream ended before the reply did")
            self._frames.extend(self._parser.feed(chunk))


class StreamedReply:
    """What has come of a reply."""

    def __init__(self, reader: EventReader) -> None:
        self._reader = reader

    @property
    def content(self) -> tuple[Part, ...]:
        """The parts of the reply so far."""
        return tuple(self._reader.builder.content)

    @property
    def reply(self) -> Reply:
        """The whole reply. Raises UnexpectedAnswer before the stream's end."""
        return self._reader.builder.reply()


class ReplyStream(StreamedReply):
    """A reply as it comes: iterate over its events.

    Breaking out of the loop, `close()` or leaving a `with` hangs up, and the server stops
    generating. Afterwards `content` holds what came, and `reply` the whole, if it is whole.
    """

    def __iter__(self) -> Generator[Event, None, None]:
        with self:
            while (event := run(self._reader.next())) is not None:
                yield event

    def __enter__(self) -> ReplyStream:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def close(self) -> None:
        run(self._reader.close())


class AsyncReplyStream(StreamedReply):
    """A reply as it comes, for `async for`; the same as `ReplyStream` otherwise.

    After a `break` the event loop closes it soon; `async with` or `aclose()` closes it at once.
    """

    async def __aiter__(self) -> AsyncGenerator[Event, None]:
        async with self:
            while (event := await self._reader.next()) is not None:
                yield event

    async def __aenter__(self) -> AsyncReplyStream:
        return self

    async def __aexit__(self, *_: Any) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        await self._reader.close()
