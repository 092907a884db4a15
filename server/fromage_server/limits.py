"""What a request's body may be, decided before anything parses it."""

from __future__ import annotations

import email.message
import re
from collections.abc import Collection

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fromage_server.errors import ApiError

UPLOADS_PATH = "/v1/uploads"
ADDITIONS_PATH = "/v1/collections/{collection}/images"
_ADDITIONS = re.compile(r"/v1/collections/[^/]+/images/?")
# Where a request's scope has its body.
BODY = "fromage.body"
# Parsing holds the event loop up; a body within the limit may be all commas.
_MAX_VALUES = 200_000


class BodyLimits:
    """ASGI middleware: reads a body within the limit, and refuses content types that the route
    doesn't take, naming the header. ``paths`` are those that take one, with their method."""

    def __init__(
        self, app: ASGIApp, max_bytes: int, paths: Collection[tuple[str, re.Pattern[str]]]
    ) -> None:
        self._app = app
        self._max_bytes = max_bytes
        self._paths = tuple(paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # Where nothing takes a body, the router says so.
        if scope["type"] != "http" or not self._takes_body(scope["method"], scope["path"]):
            await self._app(scope, receive, send)
            return
        try:
            headers = Headers(scope=scope)
            kind = check_content_type(scope["method"], scope["path"], headers.get("content-type"))
            _check_site(kind, headers.get("sec-fetch-site"))
            self._check_length(headers.get("content-length"))
            body = await self._read(receive)
            if body is not None and kind == "application/json":
                _check_values(body)
        except ApiError as error:
            response = JSONResponse(error.envelope(), error.kind.status, headers=error.headers)
            await response(scope, receive, send)
            return
        if body is not None:
            await self._app({**scope, BODY: body}, _replay(body, receive), send)

    def _takes_body(self, method: str, path: str) -> bool:
        return any(method == takes and shape.match(path) for takes, shape in self._paths)

    def _check_length(self, header: str | None) -> None:
        if header is not None and header.isdigit() and int(header) > self._max_bytes:
            raise self._too_large(f"{int(header):,} bytes")

    async def _read(self, receive: Receive) -> bytes | None:
        """The whole body; None where the client left before it was sent."""
        chunks: list[bytes] = []
        size = 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            chunks.append(message.get("body", b""))
            size += len(chunks[-1])
            if size > self._max_bytes:
                raise self._too_large("more")
            if not message.get("more_body", False):
                return b"".join(chunks)

    def _too_large(self, found: str) -> ApiError:
        return ApiError(
            "body_too_large",
            f"the body has {found}; at most {self._max_bytes:,} bytes are accepted",
        )


def _check_values(body: bytes) -> None:
    values = body.count(b",") + body.count(b"[") + body.count(b"{")
    if values > _MAX_VALUES:
        raise ApiError(
            "body_too_large",
            f"the body has about {values:,} values; at most {_MAX_VALUES:,} are accepted",
        )


def _check_site(kind: str, site: str | None) -> None:
    """Browsers let any page send forms anywhere, unlike JSON; and they say which page it is."""
    if kind != "application/json" and site == "cross-site":
        raise ApiError(
            "cross_site",
            "a page of another site may not send forms here",
            param="sec-fetch-site",
        )


def takes_form(method: str, path: str) -> bool:
    """Whether a multipart form may be sent there."""
    return method == "POST" and (
        path.rstrip("/") == UPLOADS_PATH or _ADDITIONS.fullmatch(path) is not None
    )


def check_content_type(method: str, path: str, header: str | None) -> str:
    """The media type. Raises ApiError where it is not what the path takes."""
    kind = _media_type(header)
    form = takes_form(method, path)
    if form and kind == "multipart/form-data":
        return kind
    if path.rstrip("/") == UPLOADS_PATH:
        if kind.startswith("image/"):
            return kind
        wanted = "multipart/form-data, or image/png, image/jpeg and the like"
    else:
        if kind == "application/json":
            return kind
        wanted = "application/json or multipart/form-data" if form else "application/json"
    raise ApiError(
        "unsupported_media_type",
        f"the Content-Type header is {header!r}; {path} takes {wanted}",
        param="content-type",
    )


def _media_type(header: str | None) -> str:
    if not header:
        return ""
    message = email.message.Message()
    message["content-type"] = header
    return message.get_content_type()


def _replay(body: bytes, receive: Receive) -> Receive:
    """A receive that gives the body first, and then what the client really does."""
    pending: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replayed() -> Message:
        return pending.pop() if pending else await receive()

    return replayed
