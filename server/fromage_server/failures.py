"""Every failure of a request in one envelope, whoever noticed it."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from typing import Any, Final
from urllib.parse import quote

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fromage_index.plain_json import UnreadableJson, parse
from fromage_server.errors import ApiError
from fromage_server.limits import BODY
from fromage_server.schema.base import UNSUPPORTED
from fromage_server.streaming import ClientLeft

log = logging.getLogger(__name__)
_SHOWN: Final = 80
# The lists of parts. A part's type, by which its model is chosen, stands in the path behind its
# place, and is no field of the request.
_PARTS: Final = frozenset({"content", "prompt"})


def install(app: FastAPI) -> None:
    """After every other middleware, so that its failures are answered, too."""
    app.add_exception_handler(ApiError, _on_api_error)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(HTTPException, _on_http_error)
    app.add_exception_handler(ClientLeft, _on_client_left)
    app.add_middleware(Unexpected)


class Unexpected:
    """ASGI middleware: what nobody foresaw is logged with its traceback, and answered. A handler
    of the framework's would do the same and raise the error again, upon which the server hangs up:
    a client that keeps its connection would find it reset."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = False

        async def noting(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self._app(scope, receive, noting)
        except Exception:
            if started:
                raise  # the server logs it; only hanging up tells that the answer isn't whole
            log.exception("%s %s failed", scope["method"], quote(scope["path"]))
            answer = respond(ApiError("internal_error", "the server failed; its log says why"))
            await answer(scope, receive, send)


def respond(error: ApiError) -> JSONResponse:
    return JSONResponse(error.envelope(), error.kind.status, headers=error.headers)


async def _on_api_error(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, ApiError)
    return respond(error)


async def _on_invalid(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    return respond(from_validation(error.errors(), error.body))


async def _on_http_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    response = respond(_from_status(error.status_code, request, str(error.detail)))
    response.headers.update(error.headers or {})
    return response


async def _on_client_left(_: Request, error: Exception) -> Response:
    """Nobody reads it; 499 is what proxies log for it."""
    return Response(status_code=499)


def _from_status(status: int, request: Request, detail: str) -> ApiError:
    if status == 404:
        return ApiError("route_not_found", f"there is nothing at {request.url.path}; see /docs")
    if status == 405:
        return ApiError(
            "method_not_allowed", f"{request.url.path} does not take {request.method}; see /docs"
        )
    if status == 400 and BODY in request.scope:
        return _unparsed(request.scope[BODY])
    return ApiError("bad_request" if status < 500 else "internal_error", detail)


def from_validation(errors: Sequence[Mapping[str, Any]], body: object) -> ApiError:
    """The first thing wrong, and how many more there are."""
    first = errors[0]
    if first["type"] == "json_invalid":
        text = body if isinstance(body, str) else ""
        return from_json(json.JSONDecodeError(first["ctx"]["error"], text, int(first["loc"][-1])))
    param = _path(first["loc"])
    code, message = _explain(first, param)
    if len(errors) > 1:
        message += f" (and {len(errors) - 1} more)"
    return ApiError(code, message, param=param or None)


def _unparsed(body: bytes) -> ApiError:
    """The framework doesn't say why."""
    try:
        parse(body)
    except ValueError as error:
        return from_json(error)
    return ApiError("invalid_json", "the body cannot be parsed")


def from_json(error: ValueError, field: str = "") -> ApiError:
    """What `parse` raised about the body, or about the text of a form's field."""
    if isinstance(error, UnreadableJson):
        param = ".".join(name for name in (field, error.field) if name)
        code = "invalid_value" if error.field else "invalid_json"
        return ApiError(code, f"{param or 'the body'} {error.problem}", param=param or None)
    assert isinstance(error, json.JSONDecodeError)
    return ApiError(
        "invalid_json",
        f"{field or 'the body'} is not JSON: {error.msg} at line {error.lineno}, column "
        f"{error.colno} (character {error.pos})",
        param=field or None,
    )


def _path(location: Sequence[int | str]) -> str:
    """``messages.0.content.1.text``, without the part's type."""
    names = list(location[1:]) if location and location[0] in ("body", "query", "path") else []
    kept = [
        name
        for i, name in enumerate(names)
        if not (i > 1 and isinstance(names[i - 1], int) and names[i - 2] in _PARTS)
    ]
    return _short(".".join(_short(str(name)) for name in kept))


def _explain(error: Mapping[str, Any], param: str) -> tuple[str, str]:
    kind, message = error["type"], str(error["msg"]).removeprefix("Value error, ")
    where = param or "the body"
    if kind == "extra_forbidden":
        return "unknown_field", f"{where} is not a field here; see /docs"
    if kind == "missing":
        return "missing_field", f"{where} is missing"
    if kind == UNSUPPORTED:
        return "unsupported_value", f"{where}: {message}; it is {_show(error.get('input'))}"
    message = message[:1].lower() + message[1:]
    return "invalid_value", f"{where}: {message}; it is {_show(error.get('input'))}"


def _show(value: object) -> str:
    if isinstance(value, list):
        return f"a list of {len(value):,}" if value else "an empty list"
    if isinstance(value, dict):
        return f"an object with {_short(', '.join(map(str, list(value)[:8])))}" if value else "{}"
    if isinstance(value, str):
        return json.dumps(_short(value), ensure_ascii=False)
    return _short(str(json.dumps(value))) if _is_plain(value) else type(value).__name__


def _is_plain(value: object) -> bool:
    return value is None or isinstance(value, int | float)


def _short(text: str) -> str:
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "…"
