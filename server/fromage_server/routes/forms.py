"""Forms with files, as they are taken."""

from __future__ import annotations

import re

from fastapi import Request

from fromage_server.errors import ApiError

_CHARSET = re.compile(r'charset\s*=\s*"?([^";\s]*)', re.IGNORECASE)


def check_charset(request: Request) -> None:
    """Raises ApiError for a form that says it is not UTF-8: Python has text encodings that make
    what cannot be stored, or fail in ways of their own."""
    found = _CHARSET.search(request.headers.get("content-type", ""))
    if found and found[1].lower() not in ("utf-8", "utf8"):
        raise ApiError(
            "invalid_value",
            f"the form's charset is {found[1][:40]!r}; send UTF-8, or leave it out",
            param="content-type",
        )
