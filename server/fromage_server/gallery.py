"""The server's collections, by name, and their images as replies show them."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote

import numpy as np

from fromage_index.collection import Collection, Hit
from fromage_index.errors import BadFilter, ImageNotFound, IndexFailure
from fromage_index.filter import Filter
from fromage_server.errors import ApiError
from fromage_server.schema.answers import METADATA_BYTES
from fromage_server.schema.options import RetrievalOptions

Json = dict[str, Any]
IMAGES_PATH: Final = "/v1/images"
# A data URI has to fit into a frame: tried from the largest.
_INLINE_SIZES: Final = (512, 256, 128)
_INLINE_BYTES: Final = 30_000


@dataclass(frozen=True)
class ImageFile:
    data: bytes
    content_type: str
    etag: str

    @classmethod
    def of(cls, data: bytes, content_type: str) -> ImageFile:
        return cls(data, content_type, f'"{hashlib.sha256(data).hexdigest()[:32]}"')


class Gallery:
    """Reads files and searches: call it in worker threads."""

    def __init__(self, collections: Mapping[str, Collection]) -> None:
        self._collections = dict(collections)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._collections)

    @property
    def default(self) -> str | None:
        return next(iter(self._collections), None)

    def collection(self, name: str, *, param: str | None = None) -> Collection:
        """Raises ApiError where there is none of that name."""
        try:
            return self._collections[name]
        except KeyError:
            known = ", ".join(self._collections) or "none"
            raise ApiError(
                "collection_not_found",
                f"there is no collection {name[:80]!r}; there are: {known}",
                param=param,
            ) from None

    def scope(self, options: RetrievalOptions) -> Scope | None:
        """Where to search, checked before any work; None on a server without collections."""
        name = options.collection if options.collection is not None else self.default
        if name is None:
            return None
        collection = self.collection(name, param="collection")
        try:
            wanted = Filter.parse(options.filter) if options.filter is not None else None
            if wanted is not None:
                collection.check_filter(wanted)
        except BadFilter as error:
            raise ApiError("invalid_filter", str(error), param=f"filter.{error.field}") from None
        return Scope(self, name, collection, wanted, options.min_score)

    def image_bytes(
        self, collection: str, id: str, *, size: int | None = None, param: str | None = None
    ) -> ImageFile:
        """The image as indexed, or a JPEG about ``size`` pixels on its longer side."""
        found = self.collection(collection, param=param and f"{param}.collection")
        try:
            return ImageFile.of(
                *(found.open_bytes(id) if size is None else found.thumbnail(id, size))
            )
        except ImageNotFound:
            raise ApiError(
                "image_not_found",
                f"the collection {collection!r} has no image {id[:80]!r}",
                param=param and f"{param}.id",
            ) from None
        except IndexFailure as error:
            raise ApiError("image_unavailable", str(error), param=param and f"{param}.id") from None


@dataclass(frozen=True)
class Scope:
    """A collection with a request's conditions."""

    gallery: Gallery
    name: str
    collection: Collection
    filter: Filter | None
    min_score: float | None

    def search(
        self, query: np.ndarray[Any, np.dtype[np.float32]], k: int, exclude: set[str]
    ) -> list[Hit]:
        """The best ``k`` for a unit query (E,); fewer where there are no more."""
        return self.collection.search(
            query[None], k, exclude=exclude, filter=self.filter, min_score=self.min_score
        )[0]

    def describe(self, hit: Hit, *, inline: bool = False) -> Json:
        """An image as replies show it; ``inline`` puts a small JPEG where the address stands."""
        record = self.collection.image(hit.id)
        url = record.url or f"{IMAGES_PATH}/{quote(self.name, safe='')}/{quote(hit.id, safe='')}"
        if inline and record.url is None:
            url = self._data_uri(hit.id) or url
        return {
            "id": record.id,
            "collection": self.name,
            "key": record.key,
            "url": url,
            "score": hit.score,
            "width": record.width,
            "height": record.height,
            "metadata": _bounded(record.metadata),
        }

    def _data_uri(self, id: str) -> str | None:
        for size in _INLINE_SIZES:
            data, content_type = self.collection.thumbnail(id, size)
            if len(data) <= _INLINE_BYTES:
                return f"data:{content_type};base64,{base64.b64encode(data).decode()}"
        return None


def _bounded(metadata: Json) -> Json:
    """What a frame has room for, four images in it: the fields that fit, in order."""
    room = METADATA_BYTES
    kept: Json = {}
    for field, value in metadata.items():
        room -= len(json.dumps({field: value}).encode())
        if room < 0:
            break
        kept[field] = value
    return kept
