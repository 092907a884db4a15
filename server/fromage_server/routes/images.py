"""GET /v1/images/{collection}/{id}."""

from __future__ import annotations

from typing import Annotated, Any, Final

from fastapi import APIRouter, Path, Query, Request
from starlette.responses import Response

from fromage_server.routes.conditional import file_response
from fromage_server.schema.parts import IMAGES_PATH
from fromage_server.state import State

router = APIRouter(tags=["images"])
_PATH: Final = IMAGES_PATH + "/{collection}/{id:path}"
_RESPONSES: Final[dict[int | str, dict[str, Any]]] = {
    200: {"description": "The image.", "content": {"image/jpeg": {}, "image/png": {}}},
    304: {"description": "The client's copy (If-None-Match) is still good."},
}
_HEADERS: Final = {
    "Cache-Control": "public, max-age=3600",
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; sandbox",
}
Name = Annotated[str, Path(examples=["demo"])]
Id = Annotated[str, Path(description="As a reply's `image.id`.", examples=["5f2b8c1d9e0a47b3c6d1"])]
Size = Annotated[
    int | None,
    Query(
        ge=1,
        le=4096,
        description="A JPEG of this many pixels on its longer side, rounded up to 128, 256, 512 or "
        "1024. Default: the image as it was indexed.",
        examples=[256],
    ),
]


@router.head(_PATH, include_in_schema=False)
@router.get(_PATH, response_class=Response, responses=_RESPONSES)
async def image(
    collection: Name, id: Id, state: State, request: Request, size: Size = None
) -> Response:
    """An image of a collection."""
    found = await state.workers.files(
        state.service.gallery.image_bytes, collection, id, size=size, param=None
    )
    return file_response(request, found, _HEADERS)
