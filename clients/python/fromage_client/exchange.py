"""A request and its answer: sent again where that may help, refused in typed errors."""

import itertools
import json
import random
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from .errors import (
    Interrupted,
    ServerError,
    TransportFailed,
    Unavailable,
    Unreachable,
    server_error,
)
from .wire import Answer, Request, Wire

LONGEST_WAIT = 60.0
"""Seconds; a server that asks for more than this is taken at its word: the error is raised."""
_BACK_OFF, _LONGEST_BACK_OFF = 0.5, 8.0


class Body:
    """The body of a successful answer. Its first bytes have come: nothing is sent again."""

    def __init__(self, answer: Answer, first: bytes) -> None:
        self._answer = answer
        self._first: bytes | None = first

    async def chunk(self) -> bytes:
        """The next bytes, when they come; `b""` at the end."""
        if self._first is not None:
            first, self._first = self._first, None
            return first
        return await self._answer.chunk()

    async def whole(self, limit: int | None = None) -> bytes:
        """All of it, closed; of one longer than `limit` bytes, a part that is longer too."""
        chunks: list[bytes] = []
        size = 0
        try:
            while (limit is None or size <= limit) and (chunk := await self.chunk()):
                chunks.append(chunk)
                size += len(chunk)
        finally:
            await self.close()
        return b"".join(chunks)

    async def close(self) -> None:
        await self._answer.close()


class Exchange:
    """Sends a request up to `retries` times more, where it was refused for now, or where the
    connection failed before the first byte of an answer."""

    def __init__(self, wire: Wire, retries: int) -> None:
        self._wire = wire
        self._retries = retries

    async def open(self, request: Request, *, retry: bool = True) -> Body:
        """A successful answer's body; close it."""
        for attempt in itertools.count():
            try:
                return await self._attempt(request)
            except (ServerError, TransportFailed) as error:
                wait = pause(error, attempt, repeatable=request.repeatable)
                if wait is None or not retry or attempt >= self._retries:
                    raise
            await self._wire.sleep(wait)
        raise AssertionError("the count has no end")

    async def read(self, request: Request, *, retry: bool = True) -> bytes:
        """A successful answer's whole body."""
        return await (await self.open(request, retry=retry)).whole()

    async def _attempt(self, request: Request) -> Body:
        answer = await self._wire.send(request)
        try:
            body = Body(answer, await answer.chunk())
            if not 200 <= answer.status < 300:
                raise _refusal(answer, await body.whole())
        except BaseException:
            await answer.close()
            raise
        return body


def pause(error: Exception, attempt: int, *, repeatable: bool) -> float | None:
    """Seconds to wait before the request goes out again; None where it must not."""
    if not isinstance(error, Unavailable | Unreachable | Interrupted):
        return None
    if isinstance(error, Interrupted) and not repeatable:
        return None
    if isinstance(error, Unavailable) and error.retry_after is not None:
        return error.retry_after if error.retry_after <= LONGEST_WAIT else None
    # Half of it by chance, so that clients refused together do not come back together.
    return min(_LONGEST_BACK_OFF, _BACK_OFF * 2.0**attempt) * random.uniform(0.5, 1.0)


def _refusal(answer: Answer, content: bytes) -> ServerError:
    try:
        body = json.loads(content)
    except ValueError:
        body = None
    wait = retry_after(answer.headers.get("retry-after"))
    return server_error(body, status=answer.status, retry_after=wait)


def retry_after(value: str | None) -> float | None:
    """Seconds from a Retry-After header, which holds seconds or a date (RFC 9110, 10.2.3)."""
    if value is None:
        return None
    if value.isascii() and value.isdigit():
        return float(value)
    try:
        wait = parsedate_to_datetime(value) - datetime.now(UTC)
    except (ValueError, TypeError):
        return None
    return max(0.0, wait.total_seconds())
