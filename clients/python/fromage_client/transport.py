"""Sends requests over httpx: retries what the server asks to retry, types what goes wrong."""

import json
import time
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import httpx

from .errors import Overloaded, ServerError, StreamInterrupted, TransportFailed, server_error

LONGEST_WAIT = 60.0
"""Seconds; a server that asks for more than this is taken at its word: the error is raised."""


class Transport:
    """One connection pool to one server."""

    def __init__(self, base_url: str, *, timeout: float, retries: int) -> None:
        self.base_url = base_url
        self.retries = retries
        self._http = httpx.Client(
            base_url=base_url, timeout=httpx.Timeout(timeout, connect=min(timeout, 10))
        )

    def close(self) -> None:
        self._http.close()

    def read(self, method: str, url: str, *, retry: bool = True, **content: Any) -> bytes:
        """The whole body of a successful answer."""
        with closing(self.chunks(method, url, retry=retry, **content)) as chunks:
            return b"".join(chunks)

    def chunks(
        self, method: str, url: str, *, retry: bool = True, **content: Any
    ) -> Generator[bytes, None, None]:
        """The body of a successful answer as it arrives; closing it hangs up."""
        with self._typed_errors():
            response = self._open(method, url, self.retries if retry else 0, content)
            with closing(response):
                yield from response.iter_bytes()

    def _open(self, method: str, url: str, retries: int, content: dict[str, Any]) -> httpx.Response:
        for left in reversed(range(retries + 1)):
            request = self._http.build_request(method, url, **content)
            response = self._http.send(request, stream=True)
            if response.is_success:
                return response
            error = _server_error(response)
            wait = error.retry_after if isinstance(error, Overloaded) else None
            if wait is None or wait > LONGEST_WAIT or left == 0:
                raise error
            time.sleep(wait)
        raise AssertionError("the last attempt returns or raises")

    @contextmanager
    def _typed_errors(self) -> Iterator[None]:
        try:
            yield
        except (httpx.RemoteProtocolError, httpx.ReadError) as error:
            raise StreamInterrupted(f"{self.base_url} hung up: {error}") from error
        except httpx.TimeoutException as error:
            raise TransportFailed(f"{self.base_url} did not answer in time") from error
        except (httpx.TransportError, httpx.InvalidURL) as error:
            raise TransportFailed(f"cannot reach {self.base_url}: {error}") from error


def _server_error(response: httpx.Response) -> ServerError:
    with closing(response):
        response.read()
    try:
        body = json.loads(response.content)
    except ValueError:
        body = None
    wait = retry_after(response.headers.get("retry-after"))
    return server_error(body, status=response.status_code, retry_after=wait)


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
