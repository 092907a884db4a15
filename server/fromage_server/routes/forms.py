"""Forms with files, as they are taken."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from fastapi import Request
from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import DEFAULT_MAX_HEADER_SIZE
from starlette.datastructures import FormData
from starlette.exceptions import HTTPException

from fromage_server.errors import ApiError

MAX_TEXT_BYTES: Final = 1 << 20
_SHOWN: Final = 80
_CHARSET = re.compile(r'charset\s*=\s*"?([^";\s]*)', re.IGNORECASE)
_FIELD = re.compile(r'\bname="([^"]{1,80})"')


@asynccontextmanager
async def read_form(request: Request, *, max_files: int) -> AsyncIterator[FormData]:
    """Raises ApiError where it cannot be read."""
    _check_charset(request)
    body = await request.body()
    try:
        form = await request.form(
            max_files=max_files, max_fields=max_files, max_part_size=MAX_TEXT_BYTES
        )
    except HTTPException as error:
        raise _unreadable(error, body, max_files) from None
    try:
        yield form
    finally:
        await form.close()


def _check_charset(request: Request) -> None:
    """Raises ApiError for a form that says it is not UTF-8: Python has text encodings that make
    what cannot be stored, or fail in ways of their own."""
    found = _CHARSET.search(request.headers.get("content-type", ""))
    if found and found[1].lower() not in ("utf-8", "utf8"):
        raise ApiError(
            "invalid_value",
            f"the form's charset is {found[1][:40]!r}; send UTF-8, or leave it out",
            param="content-type",
        )


def _unreadable(error: HTTPException, body: bytes, most: int) -> ApiError:
    """What the framework refused, with the field and the limit."""
    if error.detail.startswith("Too many f"):
        what = "files" if error.detail.startswith("Too many files") else "fields"
        return ApiError("invalid_value", f"the form has more than {most} {what}; send fewer")
    if error.detail.startswith("Part exceeded"):
        return ApiError(
            "body_too_large",
            f"a field of the form that is no file has more than {MAX_TEXT_BYTES:,} bytes",
        )
    cause = error.__context__ and error.__context__.__cause__
    if isinstance(cause, MultipartParseError) and "header size" in str(cause):
        return _long_header(body[body.rfind(b"\n", 0, cause.offset) + 1 :][:4096])
    return ApiError("bad_request", f"the form cannot be read: {cause or error.detail}")


def _long_header(start: bytes) -> ApiError:
    """In practice a file's name."""
    text = start.decode(errors="replace")
    field = _FIELD.search(text)
    return ApiError(
        "invalid_value",
        f"{field[1] if field else 'a part of the form'} has a header of more than "
        f"{DEFAULT_MAX_HEADER_SIZE:,} bytes, {text[:_SHOWN]!r}…: give the file a shorter name",
        param=field[1] if field else None,
    )
