"""GET /: the chat page, and the files that it consists of."""

from __future__ import annotations

from pathlib import PurePath
from typing import Final

from fastapi import APIRouter, Request
from starlette.exceptions import HTTPException
from starlette.responses import Response

from fromage_server.gallery import ImageFile
from fromage_server.routes.conditional import file_response
from fromage_server.state import State
from fromage_web import START, static_files

router = APIRouter(include_in_schema=False)
TYPES: Final = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
# Nothing from elsewhere, nothing inline; pictures may be the page's own previews, too.
_POLICY: Final = (
    "default-src 'self'; img-src 'self' data: blob:; object-src 'none'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)
HEADERS: Final = {
    # Asked for anew each time, so that files of two versions never meet; 304 where unchanged.
    "Cache-Control": "no-cache",
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
}


@router.head("/")
@router.get("/")
async def start(state: State, request: Request) -> Response:
    return await file(START, state, request)


@router.head("/page/{name}")
@router.get("/page/{name}")
async def file(name: str, state: State, request: Request) -> Response:
    found = await state.workers.files(_read, name)
    if found is None:
        raise HTTPException(404)
    return file_response(request, found, HEADERS)


def _read(name: str) -> ImageFile | None:
    file = static_files().get(name)
    kind = TYPES.get(PurePath(name).suffix)
    return ImageFile.of(file.read_bytes(), kind) if file is not None and kind is not None else None
