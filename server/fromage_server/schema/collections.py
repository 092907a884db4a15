"""The bodies that speak of collections, asked and answered."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, ConfigDict, Field, model_validator

from fromage_index import metadata as metadata_rules
from fromage_index import names
from fromage_index.errors import BadMetadata
from fromage_server.schema.answers import ErrorBody, StoredImage
from fromage_server.schema.base import STOP_AT_FIRST, AnswerModel, RequestModel, Text
from fromage_server.schema.parts import ImageRef, ImageUrl

MAX_ADDED: Final = 256
# Replies bring up to four keys in a frame.
MAX_KEY: Final = 256
_IMAGE: Final[dict[str, Any]] = {
    "id": "5f2b8c1d9e0a47b3c6d1",
    "collection": "holidays",
    "key": "beach.jpg",
    "url": "/v1/images/holidays/5f2b8c1d9e0a47b3c6d1",
    "width": 1600,
    "height": 1200,
    "metadata": {"place": "Lisbon", "year": 2024},
}
_CARD: Final[dict[str, Any]] = {
    "name": "demo",
    "size": 4500,
    "dim": 256,
    "default": True,
    "writable": True,
    "droppable": False,
    "created_at": 1795000000,
    "changed_at": 1795000000,
}
_SMALL_PNG: Final = "data:image/png;base64,iVBORw0KGgo…"


def _checked(value: dict[str, Any]) -> dict[str, Any]:
    try:
        return metadata_rules.checked(value)
    except BadMetadata as error:
        raise ValueError(str(error)) from None


Metadata = Annotated[dict[str, Any], AfterValidator(_checked)]
_METADATA_TEXT: Final = (
    "Strings, numbers, booleans and lists of them, by field, for `filter` to select by; at most "
    f"{metadata_rules.MAX_BYTES:,} bytes as JSON."
)


def _example(**values: Any) -> ConfigDict:
    return ConfigDict(json_schema_extra={"examples": [values]})


class CreateCollectionRequest(RequestModel):
    model_config = _example(name="holidays")

    name: str = Field(
        pattern=f"^{names.NAME}$",
        description=f"{names.RULE}.",
    )


class NewImage(RequestModel):
    image: ImageRef | None = Field(
        default=None, description='{"upload": ID}, or {"collection", "id"} to copy an image.'
    )
    image_url: ImageUrl | None = Field(default=None, description="A data URI with base64.")
    key: Annotated[Text, Field(min_length=1, max_length=MAX_KEY)] | None = Field(
        default=None,
        description=f"Your name for it, as replies show it, up to {MAX_KEY} characters. "
        "Default: its id, or the key of the image that is copied.",
    )
    metadata: Metadata | None = Field(
        default=None,
        description=f"{_METADATA_TEXT} Default: none, or that of the image that is copied.",
    )

    @model_validator(mode="after")
    def _one_source(self) -> NewImage:
        if (self.image is None) == (self.image_url is None):
            raise ValueError('say either "image" or "image_url"')
        return self


class AddImagesRequest(RequestModel):
    model_config = _example(
        images=[
            {
                "image": {"upload": "up_Xb2vR0tq7YkLw9ZsCe4A1mNd"},
                "key": "beach.jpg",
                "metadata": {"place": "Lisbon", "year": 2024},
            },
            {"image_url": {"url": _SMALL_PNG}},
        ]
    )

    images: Annotated[list[NewImage], STOP_AT_FIRST] = Field(
        min_length=1, max_length=MAX_ADDED, description=f"1 to {MAX_ADDED} images."
    )


class AmendImageRequest(RequestModel):
    model_config = _example(metadata={"place": "Porto", "year": None})

    metadata: Metadata = Field(
        description=f"Fields to set; null takes one away, others stay. {_METADATA_TEXT}"
    )


class CollectionCard(AnswerModel):
    model_config = _example(**_CARD)

    name: str
    size: int = Field(description="Images that can be found.")
    dim: int
    default: bool = Field(description="Whether it is searched where no collection is named.")
    writable: bool = Field(description="Whether images can be added, changed and removed.")
    droppable: bool = Field(description="Whether DELETE removes it.")
    created_at: int = Field(description="Unix time in seconds.")
    changed_at: int = Field(description="When its images last changed, Unix time in seconds.")


class CollectionList(AnswerModel):
    model_config = _example(collections=[_CARD])

    collections: list[CollectionCard]


class DroppedCollection(AnswerModel):
    model_config = _example(name="holidays", deleted=True)

    name: str
    deleted: Literal[True] = True


class KeptImage(AnswerModel):
    status: Literal["added", "exists"] = Field(
        description="exists: the very same file is in the collection already, as this image."
    )
    image: StoredImage


class RefusedImage(AnswerModel):
    status: Literal["failed"]
    error: ErrorBody


class AddImagesAnswer(AnswerModel):
    model_config = _example(
        collection="holidays", images=[{"status": "added", "image": _IMAGE}], size=1
    )

    collection: str
    images: list[Annotated[KeptImage | RefusedImage, Field(discriminator="status")]] = Field(
        description="One for each image of the request, in its order."
    )
    size: int = Field(description="Images in the collection now.")


class ImagePage(AnswerModel):
    model_config = _example(images=[_IMAGE], next="41", total=42)

    images: list[StoredImage]
    next: str | None = Field(description="Send it as `after` for the next page; null at the end.")
    total: int


class ImageAnswer(AnswerModel):
    model_config = _example(image=_IMAGE)

    image: StoredImage


class DeletedImage(AnswerModel):
    model_config = _example(id="5f2b8c1d9e0a47b3c6d1", deleted=True)

    id: str
    deleted: Literal[True] = True
