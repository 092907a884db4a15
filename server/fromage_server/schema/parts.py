"""The parts of a message or prompt: text and images, in the order they were written."""

from __future__ import annotations

import re
from typing import Annotated, Any, Final, Literal
from urllib.parse import unquote

from pydantic import BeforeValidator, Field, model_validator

from fromage_server.schema.base import STOP_AT_FIRST, RequestModel, Text

IMAGES_PATH: Final = "/v1/images"
_UPLOAD: Final = re.compile(r"upload:(?P<id>\S+)")
_OWN_IMAGE: Final = re.compile(
    r"(?:https?://[^/?#\s]+)?(?:/[^?#\s]*)?"
    rf"{IMAGES_PATH}/(?P<collection>[^/?#\s]+)/(?P<id>[^?#\s]+)(?:\?[^#\s]*)?"
)


class TextPart(RequestModel):
    type: Literal["text"] = "text"
    text: Text


class ImageUrl(RequestModel):
    url: str = Field(
        min_length=1,
        description="A data URI with base64, such as `data:image/png;base64,iVBORw0…`; "
        "`upload:ID`, with an id that POST /v1/uploads gave; or the address of a picture that a "
        f"reply showed, `…{IMAGES_PATH}/COLLECTION/ID` on whichever host. Other http(s) addresses "
        "are refused: the server fetches nothing.",
    )
    detail: Literal["auto", "low", "high"] | None = Field(
        default=None,
        description="OpenAI's. Known and not used: the vision encoder has one size.",
    )


class ImageRef(RequestModel):
    """An upload, or an image of a collection. What a reply says beside `collection` and `id` is
    known, so that a reply can be sent back unchanged, and not used."""

    upload: str | None = Field(default=None, description="An id that POST /v1/uploads gave.")
    collection: str | None = None
    id: str | None = Field(default=None, description="The image's id in that collection.")
    key: Any = None
    url: Any = None
    score: Any = None
    width: Any = None
    height: Any = None
    metadata: Any = None

    @model_validator(mode="after")
    def _one_source(self) -> ImageRef:
        stored = self.collection is not None and self.id is not None
        if stored == (self.upload is not None) or (
            not stored and (self.collection is not None or self.id is not None)
        ):
            raise ValueError('say either {"upload"} or {"collection", "id"}')
        return self


def ref_of(url: str) -> ImageRef | None:
    """The upload or the picture that an address names; None where it names neither."""
    if upload := _UPLOAD.fullmatch(url):
        return ImageRef(upload=upload["id"])
    if own := _OWN_IMAGE.fullmatch(url):
        return ImageRef(collection=unquote(own["collection"]), id=unquote(own["id"]))
    return None


class ImageUrlPart(RequestModel):
    type: Literal["image_url"]
    image_url: ImageUrl

    @property
    def ref(self) -> ImageRef | None:
        return ref_of(self.image_url.url)


class ImagePart(RequestModel):
    type: Literal["image"]
    image: ImageRef
    ret_index: int | None = Field(default=None, description="As it stood in the reply.")
    alternatives: Any = None
    query_embedding: Any = None

    @property
    def ref(self) -> ImageRef:
        return self.image


Part = Annotated[TextPart | ImageUrlPart | ImagePart, Field(discriminator="type")]


def _as_parts(value: object) -> object:
    if isinstance(value, str):
        return [{"type": "text", "text": value}]
    if not isinstance(value, list | tuple):
        raise ValueError("should be text or a list of parts")
    return value


MAX_PARTS = 4096
Parts = Annotated[
    list[Part],
    Field(max_length=MAX_PARTS),
    STOP_AT_FIRST,
    BeforeValidator(_as_parts, json_schema_input_type=str | list[Part]),
]
