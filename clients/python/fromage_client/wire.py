"""Requests out, bytes in: the only module that waits for anything, blocking or not.

What is asked, sent again and read is written once, as coroutines over a `Wire`. `AsyncClient`
awaits them over an `AsyncWire`. A `BlockingWire` never suspends, so that `run` goes straight
through them, and `Client` is a plain blocking one.
"""

import asyncio
import json
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import httpx

from .errors import Interrupted, TimedOut, TransportFailed, Unreachable

Result = TypeVar("Result")
_CONNECT_S = 10.0


@dataclass(frozen=True)
class Request:
    """`url` is a path of the server, or absolute. One that is not `repeatable` changes something
    that it can change only once."""

    method: str
    url: str
    json: Any = None
    content: bytes | None = None
    headers: Mapping[str, str] | None = None
    params: Mapping[str, str | int] | None = None
    repeatable: bool = True


class Answer(Protocol):
    """An answer whose body is still to come."""

    @property
    def status(self) -> int: ...

    @property
    def headers(self) -> Mapping[str, str]: ...

    async def chunk(self) -> bytes:
        """The next bytes of the body, when they come; `b""` at its end."""

    async def close(self) -> None:
        """Hangs up, where the body is not at its end."""


class Wire(Protocol):
    """A way to one server. Everything raises TransportFailed."""

    async def send(self, request: Request) -> Answer: ...

    async def sleep(self, seconds: float) -> None: ...

    async def compute(self, work: Callable[[], Result]) -> Result:
        """Work that would hold others up: reading a file, encoding an image."""

    async def close(self) -> None: ...


def run(work: Coroutine[Any, Any, Result]) -> Result:
    """The result of a coroutine that awaits nothing but a blocking wire."""
    try:
        work.send(None)
    except StopIteration as done:
        return done.value  # type: ignore[no-any-return]
    raise AssertionError("a blocking wire does not suspend")


class BlockingWire:
    def __init__(self, base_url: str, timeout: float) -> None:
        self._http = httpx.Client(base_url=base_url, timeout=_timeout(timeout))

    async def send(self, request: Request) -> Answer:
        with _typed(request.url, self._http.base_url):
            built = _built(self._http, request)
            return _BlockingAnswer(
                self._http.send(built, stream=True, follow_redirects=_moves(request))
            )

    async def sleep(self, seconds: float) -> None:
        time.sleep(seconds)  # noqa: ASYNC251  no event loop runs it

    async def compute(self, work: Callable[[], Result]) -> Result:
        return work()

    async def close(self) -> None:
        self._http.close()


class _BlockingAnswer:
    def __init__(self, response: httpx.Response) -> None:
        self.status, self.headers = response.status_code, response.headers
        self._response = response
        self._chunks = response.iter_bytes()

    async def chunk(self) -> bytes:
        with _typed(str(self._response.url)):
            return next(self._chunks, b"")

    async def close(self) -> None:
        self._response.close()


class AsyncWire:
    def __init__(self, base_url: str, timeout: float) -> None:
        self._http = httpx.AsyncClient(base_url=base_url, timeout=_timeout(timeout))

    async def send(self, request: Request) -> Answer:
        with _typed(request.url, self._http.base_url):
            built = _built(self._http, request)
            return _AsyncAnswer(
                await self._http.send(built, stream=True, follow_redirects=_moves(request))
            )

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def compute(self, work: Callable[[], Result]) -> Result:
        return await asyncio.to_thread(work)

    async def close(self) -> None:
        await self._http.aclose()


class _AsyncAnswer:
    def __init__(self, response: httpx.Response) -> None:
        self.status, self.headers = response.status_code, response.headers
        self._response = response
        self._chunks = response.aiter_bytes()

    async def chunk(self) -> bytes:
        with _typed(str(self._response.url)):
            return await anext(self._chunks, b"")

    async def close(self) -> None:
        await self._response.aclose()


def _timeout(seconds: float) -> httpx.Timeout:
    return httpx.Timeout(seconds, connect=min(seconds, _CONNECT_S))


def _built(http: httpx.Client | httpx.AsyncClient, request: Request) -> httpx.Request:
    content, headers = request.content, dict(request.headers or {})
    if request.json is not None:
        # Escaped down to ASCII, it holds any `str`; the server refuses what is no text.
        content = json.dumps(request.json).encode()
        headers["content-type"] = "application/json"
    return http.build_request(
        request.method, request.url, content=content, headers=headers, params=request.params
    )


def _moves(request: Request) -> bool:
    """Whether a redirect is followed: of a POST it would drop the body."""
    return request.method == "GET"


@contextmanager
def _typed(url: str, base_url: object = "") -> Iterator[None]:
    """httpx's errors as this package's; `url` may be relative to `base_url`."""
    place = str(base_url).rstrip("/") if url.startswith("/") else url
    try:
        yield
    except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
        raise Unreachable(f"cannot reach {place}: {error or 'no connection in time'}") from error
    except httpx.TimeoutException as error:
        raise TimedOut(f"{place} did not answer in time") from error
    except (httpx.NetworkError, httpx.RemoteProtocolError) as error:
        raise Interrupted(f"{place} hung up: {error}") from error
    except (httpx.RequestError, httpx.InvalidURL) as error:
        raise TransportFailed(f"cannot ask {place}: {error}") from error
