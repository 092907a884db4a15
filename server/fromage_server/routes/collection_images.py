"""/v1/collections/{collection}/images: the images of a collection, added, listed and changed."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Annotated, Any, Final

from fastapi import APIRouter, Path, Query, Request
from fastapi.exceptions import RequestValidationError
from pydantic import TypeAdapter, ValidationError
from starlette.datastructures import FormData, UploadFile
from starlette.responses import JSONResponse, Response

from fromage_index.plain_json import parse
from fromage_server.additions import NewPicture
from fromage_server.errors import ApiError
from fromage_server.failures import from_json
from fromage_server.limits import ADDITIONS_PATH
from fromage_server.media import SourceImage
from fromage_server.prompt import Picture
from fromage_server.routes.collections import Name
from fromage_server.routes.forms import read_form
from fromage_server.schema.collections import (
    MAX_ADDED,
    MAX_KEY,
    AddImagesAnswer,
    AddImagesRequest,
    AmendImageRequest,
    DeletedImage,
    ImageAnswer,
    ImagePage,
    Metadata,
    NewImage,
)
from fromage_server.schema.parts import ImagePart, ImageUrlPart
from fromage_server.state import State

Json = dict[str, Any]


def _inlined(schema: Any, definitions: Json) -> Any:
    """A schema that refers to nothing: what a route reads itself is no component of the API's."""
    if isinstance(schema, list):
        return [_inlined(one, definitions) for one in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        return _inlined(definitions[schema["$ref"].rpartition("/")[2]], definitions)
    return {key: _inlined(one, definitions) for key, one in schema.items() if key != "$defs"}


router = APIRouter(tags=["collections"])
_IMAGE_PATH: Final = ADDITIONS_PATH + "/{id:path}"
_METADATA: Final = TypeAdapter[Any](Metadata)
_ADDITION: Final = AddImagesRequest.model_json_schema()
_FORM: Final[Json] = {
    "schema": {
        "type": "object",
        "required": ["file"],
        "properties": {
            "file": {
                "type": "array",
                "items": {"type": "string", "format": "binary"},
                "description": f"1 to {MAX_ADDED} files; a file's name is its image's key, of a "
                f"longer one the last {MAX_KEY} characters.",
            },
            "metadata": {
                "type": "string",
                "description": "JSON: an object for all files, or a list with one for each. "
                "Default: none.",
            },
        },
    }
}
_BODY: Final[Json] = {
    "requestBody": {
        "required": True,
        "description": "JSON, or a form with one or many files.",
        "content": {
            "application/json": {"schema": _inlined(_ADDITION, _ADDITION["$defs"])},
            "multipart/form-data": _FORM,
        },
    }
}
Id = Annotated[str, Path(description="The image's id.", examples=["5f2b8c1d9e0a47b3c6d1"])]
Limit = Annotated[int, Query(ge=1, le=200, description="Images on the page. Default: 50.")]
After = Annotated[
    str | None,
    Query(
        pattern=r"^\d{1,18}$",
        description="Where the page begins: the page before said so in `next`. Default: at the "
        "newest image.",
    ),
]


@router.post(ADDITIONS_PATH, response_model=AddImagesAnswer, openapi_extra=_BODY)
async def add(collection: Name, state: State, request: Request) -> Response:
    """Adds images: when this answers they are on the disk, and the next search finds them. Adding
    a file that is there already changes nothing and answers with the image that it is. One that
    fails doesn't keep the others out; where it is the only one, its error is the answer."""
    curator = state.service.curator
    if request.headers["content-type"].lower().startswith("multipart/"):
        async with read_form(request, max_files=MAX_ADDED) as form:
            pictures = await _from_form(form)
    else:
        pictures = _from_json(await request.body())
    return JSONResponse(await curator.add(collection, pictures))


@router.get(ADDITIONS_PATH, response_model=ImagePage)
async def images(
    collection: Name, state: State, limit: Limit = 50, after: After = None
) -> Response:
    """A collection's images, the newest first. Pages stay as they are while images come and go:
    none is shown twice, and none that was there all the time is left out."""
    place = int(after) if after is not None else None
    return JSONResponse(await state.service.curator.page(collection, limit, place))


@router.patch(_IMAGE_PATH, response_model=ImageAnswer)
async def amend(collection: Name, id: Id, body: AmendImageRequest, state: State) -> Response:
    """Changes an image's metadata."""
    image = await state.service.curator.amend(collection, id, body.metadata)
    return JSONResponse({"image": image})


@router.delete(_IMAGE_PATH)
async def remove(collection: Name, id: Id, state: State) -> DeletedImage:
    """Takes an image out of the collection. A file that the collection only refers to stays."""
    await state.service.curator.remove(collection, id)
    return DeletedImage(id=id)


def _from_json(body: bytes) -> list[NewPicture]:
    content = _parsed(body)
    try:
        images = AddImagesRequest.model_validate(content).images
    except ValidationError as error:
        raise _invalid(error, ("body",), content) from None
    return [_picture(image, f"images.{i}") for i, image in enumerate(images)]


def _picture(image: NewImage, param: str) -> NewPicture:
    source: ImagePart | ImageUrlPart
    if image.image is not None:
        source = ImagePart(type="image", image=image.image)
    else:
        assert image.image_url is not None
        source = ImageUrlPart(type="image_url", image_url=image.image_url)
    return NewPicture(Picture(source, param), param, image.key, image.metadata)


async def _from_form(form: FormData) -> list[NewPicture]:
    unknown = [name for name in form if name not in ("file", "metadata")]
    if unknown:
        raise ApiError(
            "unknown_field",
            f"the form has the field {unknown[0][:80]!r}; it takes file and metadata",
            param=unknown[0][:80],
        )
    files = [value for value in form.getlist("file") if isinstance(value, UploadFile)]
    if not files:
        raise ApiError(
            "missing_field", "the form has no file; send one or more as `file`", param="file"
        )
    metadata = _form_metadata(form.getlist("metadata"), len(files))
    pictures = []
    for i, file in enumerate(files):
        data = await file.read()
        param = f"file.{i}"
        image = SourceImage(data, hashlib.sha256(data).hexdigest(), param)
        pictures.append(
            NewPicture(image, param, (file.filename or "")[-MAX_KEY:] or None, metadata[i])
        )
    return pictures


def _form_metadata(values: Sequence[str | UploadFile], files: int) -> list[Json]:
    """One for each file."""
    if not values:
        return [{}] * files
    (value, *more) = values
    if more or not isinstance(value, str):
        raise ApiError("invalid_value", "metadata is one field of text, JSON", param="metadata")
    content = _parsed(value, "metadata")
    listed = content if isinstance(content, list) else [content] * files
    if len(listed) != files:
        raise ApiError(
            "invalid_value",
            f"metadata lists {len(listed)} objects for {files} files; send one for each",
            param="metadata",
        )
    return [
        _one_metadata(one, ("metadata", i) if isinstance(content, list) else ("metadata",))
        for i, one in enumerate(listed)
    ]


def _one_metadata(value: object, where: tuple[str | int, ...]) -> Json:
    try:
        checked: Json = _METADATA.validate_python(value)
    except ValidationError as error:
        raise _invalid(error, ("body", *where), value) from None
    return checked


def _parsed(text: str | bytes, field: str = "") -> Any:
    """A body, or a form's field."""
    try:
        return parse(text)
    except ValueError as error:
        raise from_json(error, field) from None


def _invalid(
    error: ValidationError, where: tuple[str | int, ...], body: object
) -> RequestValidationError:
    found = [{**one, "loc": (*where, *one["loc"])} for one in error.errors()]
    return RequestValidationError(found, body=body)
