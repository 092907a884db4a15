"""Everything this package raises.

FromageError
├── TransportFailed         no whole answer came back
│   └── StreamInterrupted   it broke off: a stream without its last event
├── UnexpectedAnswer        an answer that is not in the server's contract
└── ServerError             the server refused or failed; carries type, code, param and message
    ├── InvalidRequest      the request has to change
    ├── NotFound            no such image, upload, collection or route
    ├── Overloaded          full or not ready yet: the same request may succeed later
    └── ServerFailure       everything else
"""

from collections.abc import Mapping
from typing import Any


class FromageError(Exception):
    """Base of everything this package raises."""


class TransportFailed(FromageError):
    """No whole answer came back: the server is unreachable, too slow, or hung up."""


class StreamInterrupted(TransportFailed):
    """A stream ended before `message.end`; what came before it is a part of a reply."""


class UnexpectedAnswer(FromageError):
    """The answer is not what a FROMAGe server says: wrong address, or another version."""


class ServerError(FromageError):
    """The server's own error. `status` is None for one that came within a stream."""

    def __init__(
        self,
        message: str,
        *,
        type: str,
        code: str | None,
        param: str | None,
        status: int | None,
        retry_after: float | None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.type = type
        self.code = code
        self.param = param
        self.status = status
        self.retry_after = retry_after


class InvalidRequest(ServerError):
    """The request is wrong as it stands; `param` names the field."""


class NotFound(ServerError):
    """No image, upload or collection goes by that name."""


class Overloaded(ServerError):
    """The server is full or not ready yet; `retry_after` is in seconds where it said so."""


class ServerFailure(ServerError):
    """The server failed, or answered with a status this package has no name for."""


_BY_TYPE: dict[str, type[ServerError]] = {
    "invalid_request_error": InvalidRequest,
    "not_found_error": NotFound,
    "unavailable_error": Overloaded,
    "server_error": ServerFailure,
}
_BY_STATUS: dict[int, type[ServerError]] = {404: NotFound, 429: Overloaded, 503: Overloaded}


def server_error(
    body: object, *, status: int | None = None, retry_after: float | None = None
) -> ServerError:
    """The typed error for an error body `{"error": {"type", "code", "message", "param"}}`.

    A body without one (a proxy's page) is typed by its status.
    """
    error = body.get("error") if isinstance(body, Mapping) else None
    if not isinstance(error, Mapping):
        error = {"type": "unknown_error", "message": f"the server answered {status}"}
    kind = _BY_TYPE.get(str(error.get("type"))) or _by_status(status)
    return kind(
        str(error.get("message")),
        type=str(error.get("type")),
        code=_text(error.get("code")),
        param=_text(error.get("param")),
        status=status,
        retry_after=retry_after,
    )


def _by_status(status: int | None) -> type[ServerError]:
    refused = status is not None and 400 <= status < 500
    return _BY_STATUS.get(status or 0, InvalidRequest if refused else ServerFailure)


def _text(value: Any) -> str | None:
    return None if value is None else str(value)
