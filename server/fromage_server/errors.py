"""Everything the service refuses or fails with, and the one table of codes.

ServiceError
├── SettingsError     a flag, a FROMAGE_* variable or a key of the TOML file is wrong
├── StartupError      the server cannot start: a model or a collection is missing or mismatched
└── ApiError          a request cannot be answered; its code decides type and status (ERROR_TABLE)
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple


class ErrorKind(NamedTuple):
    type: str
    status: int


_INVALID, _FORBIDDEN, _MISSING, _BUSY, _FAILED = (
    "invalid_request_error",
    "permission_error",
    "not_found_error",
    "unavailable_error",
    "server_error",
)

ERROR_TABLE: Final[dict[str, ErrorKind]] = {
    "invalid_json": ErrorKind(_INVALID, 400),
    "unknown_field": ErrorKind(_INVALID, 400),
    "missing_field": ErrorKind(_INVALID, 400),
    "invalid_value": ErrorKind(_INVALID, 400),
    "invalid_filter": ErrorKind(_INVALID, 400),
    "unreadable_image": ErrorKind(_INVALID, 400),
    "image_url_not_allowed": ErrorKind(_INVALID, 400),
    "too_many_images": ErrorKind(_INVALID, 400),
    "context_length_exceeded": ErrorKind(_INVALID, 400),
    "unsupported_value": ErrorKind(_INVALID, 400),
    "bad_request": ErrorKind(_INVALID, 400),
    "read_only": ErrorKind(_FORBIDDEN, 403),
    "cross_site": ErrorKind(_FORBIDDEN, 403),
    "not_droppable": ErrorKind(_FORBIDDEN, 403),
    "route_not_found": ErrorKind(_MISSING, 404),
    "model_not_found": ErrorKind(_MISSING, 404),
    "collection_not_found": ErrorKind(_MISSING, 404),
    "image_not_found": ErrorKind(_MISSING, 404),
    "image_unavailable": ErrorKind(_MISSING, 404),
    "upload_not_found": ErrorKind(_MISSING, 404),
    "method_not_allowed": ErrorKind(_INVALID, 405),
    "collection_exists": ErrorKind(_INVALID, 409),
    "body_too_large": ErrorKind(_INVALID, 413),
    "unsupported_media_type": ErrorKind(_INVALID, 415),
    "reference_error": ErrorKind(_INVALID, 422),
    "queue_full": ErrorKind(_BUSY, 429),
    "collection_busy": ErrorKind(_BUSY, 503),
    "not_ready": ErrorKind(_BUSY, 503),
    "engine_dead": ErrorKind(_FAILED, 503),
    "storage_failed": ErrorKind(_FAILED, 500),
    "generation_failed": ErrorKind(_FAILED, 500),
    "internal_error": ErrorKind(_FAILED, 500),
}


class ServiceError(Exception):
    """Base of the tree; its text is one line that a user can act on."""


class SettingsError(ServiceError):
    pass


class StartupError(ServiceError):
    pass


class ApiError(ServiceError):
    """``param`` names the field of the request at fault, as a path such as ``messages.0.role``."""

    def __init__(
        self, code: str, message: str, *, param: str | None = None, retry_after: int | None = None
    ) -> None:
        super().__init__(message)
        assert code in ERROR_TABLE, code
        self.code = code
        self.message = message
        self.param = param
        self.retry_after = retry_after

    @property
    def kind(self) -> ErrorKind:
        return ERROR_TABLE[self.code]

    @property
    def headers(self) -> dict[str, str]:
        return {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}

    def about(self, param: str) -> ApiError:
        """The same, of another field."""
        return ApiError(self.code, self.message, param=param, retry_after=self.retry_after)

    def envelope(self) -> dict[str, Any]:
        return {
            "error": {
                "type": self.kind.type,
                "code": self.code,
                "message": _encodable(self.message),
                "param": self.param and _encodable(self.param),
            }
        }


def _encodable(text: str) -> str:
    """Without the lone surrogates that JSON can smuggle in and UTF-8 cannot hold."""
    return text.encode(errors="replace").decode()
