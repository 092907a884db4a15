"""POST /v1/uploads."""

from __future__ import annotations

from typing import Any, Final

from fastapi import APIRouter, Request
from starlette.datastructures import UploadFile

from fromage_index.decode import decode_image
from fromage_index.errors import UnreadableImage
from fromage_server.errors import ApiError
from fromage_server.routes.forms import read_form
from fromage_server.schema.answers import UploadAnswer
from fromage_server.state import State
from fromage_server.uploads import Upload, UploadStore

router = APIRouter(tags=["images"])
# One is taken; of some more it is said how many they were.
_MAX_FILES: Final = 16
_BINARY: Final[dict[str, Any]] = {"schema": {"type": "string", "format": "binary"}}
_FORM: Final[dict[str, Any]] = {
    "schema": {
        "type": "object",
        "required": ["file"],
        "properties": {"file": {"type": "string", "format": "binary"}},
    }
}
_BODY: Final[dict[str, Any]] = {
    "requestBody": {
        "required": True,
        "description": "A form with one file, or the image's own bytes.",
        "content": {"multipart/form-data": _FORM, "image/png": _BINARY, "image/jpeg": _BINARY},
    }
}


@router.post("/v1/uploads", response_model=UploadAnswer, openapi_extra=_BODY)
async def upload(state: State, request: Request) -> UploadAnswer:
    """Keeps an image for a while, to be named in messages by its id."""
    data = await _image_bytes(request)
    kept = await state.workers.files(_keep, state.uploads, data)
    return UploadAnswer(
        id=kept.id, width=kept.width, height=kept.height, expires_at=kept.expires_at
    )


async def _image_bytes(request: Request) -> bytes:
    if request.headers["content-type"].lower().startswith("image/"):
        return await request.body()
    async with read_form(request, max_files=_MAX_FILES) as form:
        files = [value for _, value in form.multi_items() if isinstance(value, UploadFile)]
        if len(files) != 1:
            raise ApiError(
                "invalid_value",
                f"the form has {len(files)} files; send one, as the field `file`",
                param="file",
            )
        return await files[0].read()


def _keep(uploads: UploadStore, data: bytes) -> Upload:
    try:
        image = decode_image(data)
    except UnreadableImage as error:
        raise ApiError("unreadable_image", str(error), param="file") from None
    return uploads.add(data, image.width, image.height)
