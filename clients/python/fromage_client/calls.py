"""Every request of the server, once: coroutines over a wire, blocking or not."""

from __future__ import annotations

import json
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, TypeVar

from .errors import (
    Interrupted,
    NotFound,
    TimedOut,
    Unavailable,
    UnexpectedAnswer,
    Unreachable,
)
from .exchange import Body, Exchange
from .images import ImageRef, read_image
from .messages import Content, Intake, Messages, OwnImage, Upload
from .pictures import as_picture
from .reply import CollectionInfo, ModelInfo, Reply, Retrieval, Score, record
from .streams import EventReader
from .wire import Request, Wire

Options = Mapping[str, Any]
Result = TypeVar("Result")
_POLL_S: Final = 0.5


class Calls:
    """The requests of one server, as `Client` and `AsyncClient` describe them."""

    def __init__(self, base_url: str, wire: Wire, retries: int) -> None:
        self.base_url = base_url.rstrip("/")
        self._wire = wire
        self._exchange = Exchange(wire, retries)
        self.intake = Intake(wire, self._exchange)

    async def close(self) -> None:
        await self._wire.close()

    async def chat(self, messages: Messages, options: Options) -> Reply:
        return await self.json(lambda: self.chat_request(messages, options), self._reply)

    def chat_events(self, messages: Messages, options: Options) -> EventReader:
        streamed = {**options, "stream": True}
        return self.events(lambda: self.chat_request(messages, streamed))

    async def generate(self, prompt: Content, options: Options) -> Reply:
        return await self.json(lambda: self._prompt("generate", prompt, options), self._reply)

    def generate_events(self, prompt: Content, options: Options) -> EventReader:
        streamed = {**options, "stream": True}
        return self.events(lambda: self._prompt("generate", prompt, streamed))

    async def retrieve(self, prompt: Content, options: Options) -> Retrieval:
        return await self.json(
            lambda: self._prompt("retrieve", prompt, options),
            lambda data: Retrieval.from_json(data, self.base_url),
        )

    async def score(self, prompt: Content, options: Options) -> tuple[Score, ...]:
        return await self.json(
            lambda: self._prompt("score", prompt, options),
            lambda data: tuple(record(Score, row) for row in data["scores"]),
        )

    async def upload(self, image: OwnImage | str) -> Upload:
        return await self.intake.upload(await self.intake.read(as_picture(image)))

    async def image(self, image: ImageRef | str, size: int | None) -> bytes:
        url = image.url if isinstance(image, ImageRef) else image
        return await read_image(self._exchange, url, size)

    async def models(self) -> tuple[ModelInfo, ...]:
        return await self._list("/v1/models", "data", ModelInfo.from_json)

    async def collections(self) -> tuple[CollectionInfo, ...]:
        return await self._list(
            "/v1/collections", "collections", lambda row: record(CollectionInfo, row)
        )

    async def health(self) -> None:
        await self._exchange.read(Request("GET", "/healthz"), retry=False)

    async def ready(self) -> None:
        await self._exchange.read(Request("GET", "/readyz"), retry=False)

    async def wait_until_ready(self, within: float, progress: Callable[[str], None] | None) -> None:
        """A server that can't be reached may be about to listen; once it was, it has died."""
        deadline = time.monotonic() + within
        heard, said = False, ""
        while True:
            try:
                return await self.ready()
            except Unavailable as error:
                heard, now = True, str(error)
            except (Unreachable, Interrupted) as error:
                if heard:
                    raise
                now = str(error)
            if progress is not None and now != said:
                progress(said := now)
            if time.monotonic() >= deadline:
                raise TimedOut(f"not ready within {within:g} s: {now}")
            await self._wire.sleep(_POLL_S)

    async def chat_request(self, messages: Messages, options: Options) -> Request:
        body = {"messages": await self.intake.messages(messages), **options}
        return Request("POST", "/v1/chat", json=body)

    def events(self, build: Callable[[], Awaitable[Request]]) -> EventReader:
        return EventReader(lambda: self.open(build), self.base_url)

    async def open(self, build: Callable[[], Awaitable[Request]]) -> Body:
        """A stream's body. `build` is asked again where an upload has been dropped."""

        async def send() -> Body:
            return await self._exchange.open(await build())

        return await self._fresh(send)

    async def json(
        self, build: Callable[[], Awaitable[Request]], read: Callable[[Any], Result]
    ) -> Result:
        """One answer of JSON. `build` is asked again where an upload has been dropped."""

        async def send() -> bytes:
            return await self._exchange.read(await build())

        return parsed(await self._fresh(send), read)

    async def ask(self, request: Request, read: Callable[[Any], Result]) -> Result:
        """One answer of JSON to a request that holds no content."""
        return parsed(await self._exchange.read(request), read)

    async def tell(self, request: Request) -> None:
        """One answer whose body says nothing more."""
        await self._exchange.read(request)

    async def _list(self, path: str, key: str, read: Callable[[Any], Result]) -> tuple[Result, ...]:
        return await self.ask(Request("GET", path), lambda data: tuple(map(read, data[key])))

    async def _prompt(self, verb: str, prompt: Content, options: Options) -> Request:
        body = {"prompt": await self.intake.content(prompt), **options}
        return Request("POST", f"/v1/{verb}", json=body)

    def _reply(self, data: Any) -> Reply:
        return Reply.from_json(data, self.base_url)

    async def _fresh(self, send: Callable[[], Awaitable[Result]]) -> Result:
        """Sends again where the server has dropped an upload before its time."""
        try:
            return await send()
        except NotFound as error:
            if error.code != "upload_not_found" or not self.intake.forget_uploads():
                raise
            return await send()


def parsed(body: bytes, read: Callable[[Any], Result]) -> Result:
    try:
        return read(json.loads(body))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        start = body[:80].decode(errors="replace")
        raise UnexpectedAnswer(f"not an answer of a FROMAGe server: {start!r}") from error
