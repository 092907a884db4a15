"""The server's own address, as whoever asks reaches it."""

from __future__ import annotations

import re
from typing import Final

from starlette.requests import Request

_HOST: Final = re.compile(r"[A-Za-z0-9._-]+(:\d+)?|\[[0-9A-Fa-f:.]+\](:\d+)?")
_PREFIX: Final = re.compile(r"(/[A-Za-z0-9._~%-]+)*")


def public_base(request: Request, configured: str | None) -> str:
    """``configured``, or what the request and the proxies before it say (X-Forwarded-Proto, -Host
    and -Prefix; they decide nothing but this reply's addresses). No slash at its end."""
    if configured is not None:
        return configured.rstrip("/")
    scheme = _forwarded(request, "proto") or request.url.scheme
    host = _forwarded(request, "host") or request.headers.get("host", "")
    prefix = (_forwarded(request, "prefix") or request.scope.get("root_path", "")).rstrip("/")
    if scheme in ("http", "https") and _HOST.fullmatch(host) and _PREFIX.fullmatch(prefix):
        return f"{scheme}://{host}{prefix}"
    return str(request.base_url).rstrip("/")


def _forwarded(request: Request, what: str) -> str:
    """Of several proxies, what the first one saw."""
    header: str = request.headers.get(f"x-forwarded-{what}", "")
    return header.partition(",")[0].strip()
