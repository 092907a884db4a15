"""Everything this package raises, but for the OSError of a file that can't be read or written.

Of many images that are added, one whose file can't be read has an UnreadableFile as its error, and
one whose key or metadata can't be sent an UnusableMetadata.

FromageError
├── TransportFailed             no whole answer came back
│   ├── Unreachable             no connection could be made: nothing was sent
│   ├── TimedOut                the server was silent for too long, or not ready in time
│   └── Interrupted             it hung up before its answer, or its stream, was whole
├── UnexpectedAnswer            an answer that is not in the server's contract
├── UnusablePicture             an array, a URL or an object that no image can be made of
├── UnusableMetadata            metadata, or a key, that JSON cannot hold
├── UnreadableFile              a file that can't be read; its cause is the OSError
├── UnreadableConversation      a file that is not a saved conversation
└── ServerError                 the server refused or failed; carries type, code, param and message
    ├── InvalidRequest          the request has to change
    ├── Forbidden               the server or the collection takes no such change
    ├── NotFound                no such image, upload, collection or route
    ├── Unavailable             the same request may succeed later
    │   ├── Overloaded          full
    │   └── NotReady            still loading; the message says what
    └── ServerFailure           everything else
"""

from collections.abc import Mapping
from typing import Any


class FromageError(Exception):
    """Base of everything this package raises."""


class TransportFailed(FromageError):
    """No whole answer came back."""


class Unreachable(TransportFailed):
    """No connection could be made: nothing was sent."""


class TimedOut(TransportFailed):
    """The server said nothing for as long as was allowed, or was not ready in time."""


class Interrupted(TransportFailed):
    """The server hung up before its answer was whole; what came before may be part of a reply."""


class UnexpectedAnswer(FromageError):
    """The answer is not what a FROMAGe server says: wrong address, or another version."""


class UnusablePicture(FromageError, ValueError):
    """No image can be made of what was given as one."""


class UnusableMetadata(FromageError, ValueError):
    """Metadata, or a key, that JSON cannot hold; the message says what in it."""


class UnreadableFile(FromageError):
    """A file that was to be added can't be read; `__cause__` says why in Python's terms."""


class UnreadableConversation(FromageError, ValueError):
    """The file is not a conversation that this version saved."""


class ServerError(FromageError):
    """The server's own error.

    `code` is the precise reason, `param` the field of the request at fault, `retry_after` the
    seconds the server asks to wait. `status` is None for an error within a stream or a list.
    """

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


class Forbidden(ServerError):
    """The server, or this collection, takes no such change."""


class NotFound(ServerError):
    """No image, upload or collection goes by that name."""


class Unavailable(ServerError):
    """The same request may succeed later; `retry_after` is in seconds where the server said so."""


class Overloaded(Unavailable):
    """The server is full."""


class NotReady(Unavailable):
    """The server is still loading; the message says what it is doing."""


class ServerFailure(ServerError):
    """The server failed, or answered with a status this package has no name for."""


_BY_TYPE: dict[str, type[ServerError]] = {
    "invalid_request_error": InvalidRequest,
    "permission_error": Forbidden,
    "not_found_error": NotFound,
    "unavailable_error": Unavailable,
    "server_error": ServerFailure,
}
_BY_CODE: dict[str, type[ServerError]] = {"not_ready": NotReady, "queue_full": Overloaded}
_BY_STATUS: dict[int, type[ServerError]] = {
    403: Forbidden,
    404: NotFound,
    429: Overloaded,
    503: Unavailable,
}


def server_error(
    body: object, *, status: int | None = None, retry_after: float | None = None
) -> ServerError:
    """The typed error for an error body `{"error": {"type", "code", "message", "param"}}`.

    A body without one (a proxy's page) is typed by its status.
    """
    error = body.get("error") if isinstance(body, Mapping) else None
    if not isinstance(error, Mapping):
        error = {"type": "unknown_error", "message": f"the server answered {status}"}
    by_code = _BY_CODE.get(str(error.get("code")))
    kind = by_code or _BY_TYPE.get(str(error.get("type"))) or _by_status(status)
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
