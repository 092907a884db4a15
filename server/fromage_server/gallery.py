"""The server's collections, by name, and their images as replies show them."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Collection as Ids
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Final
from urllib.parse import quote

import numpy as np

from fromage_index.collection import Collection, Hit
from fromage_index.errors import BadFilter, ImageNotFound, IndexFailure
from fromage_index.filter import Filter
from fromage_index.record import ImageRecord
from fromage_server.errors import ApiError
from fromage_server.live import LiveCollection
from fromage_server.schema.answers import METADATA_BYTES
from fromage_server.schema.options import RetrievalOptions
from fromage_server.schema.parts import IMAGES_PATH

Json = dict[str, Any]
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

    def __init__(self, collections: Iterable[LiveCollection]) -> None:
        # Replaced whole, so that it can be read while it changes.
        self._collections = {live.name: live for live in collections}
        self._changing = threading.Lock()

    @property
    def all(self) -> tuple[LiveCollection, ...]:
        """Those that are still there."""
        return tuple(live for live in self._collections.values() if not live.gone)

    @property
    def default(self) -> str | None:
        """The first that is still there."""
        return next((name for name, live in self._collections.items() if not live.gone), None)

    def add(self, live: LiveCollection) -> None:
        """Behind the others; in the place of one of its name that is gone."""
        with self._changing:
            before = self._collections.get(live.name)
            self._collections = {**self._collections, live.name: live}
        if before is not None:
            before.close()

    def remove(self, live: LiveCollection) -> None:
        """Raises ApiError where another was faster."""
        with self._changing:
            if self._collections.get(live.name) is not live:
                raise self._unknown(live.name, None)
            kept = {name: one for name, one in self._collections.items() if one is not live}
            self._collections = kept

    def close(self) -> None:
        """Changes end; reading goes on."""
        for live in self._collections.values():
            live.close()

    def collection(self, name: str, *, param: str | None = None) -> Collection:
        """As it is now. Raises ApiError where there is none of that name."""
        return self.live(name, param=param).latest()

    def live(self, name: str, *, param: str | None = None) -> LiveCollection:
        """Raises ApiError where there is none of that name (any more)."""
        live = self._collections.get(name)
        if live is None or live.gone:
            raise self._unknown(name, param)
        return live

    def takes(self, name: str) -> bool:
        """Whether one of that name may be added. Those given at the start keep their names, though
        their disk be away."""
        live = self._collections.get(name)
        return live is None or (live.droppable and live.gone)

    def check(self, live: LiveCollection) -> None:
        """Raises ApiError where it was dropped, though another may have its name now."""
        if self._collections.get(live.name) is not live or live.gone:
            raise ApiError(
                "collection_not_found", f"the collection {live.name!r} was dropped meanwhile"
            )

    def _unknown(self, name: str, param: str | None) -> ApiError:
        known = ", ".join(live.name for live in self.all) or "none"
        return ApiError(
            "collection_not_found",
            f"there is no collection {name[:80]!r}; there are: {known}",
            param=param,
        )

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
    """A collection, as it was at one moment, with a request's conditions."""

    gallery: Gallery
    name: str
    collection: Collection
    filter: Filter | None
    min_score: float | None

    def latest(self) -> Scope:
        """Over the collection as it is now: a reply's next search sees what has changed since."""
        try:
            return replace(self, collection=self.gallery.collection(self.name))
        except ApiError:
            return self  # dropped meanwhile

    def asks_like(self, other: Scope) -> bool:
        """Whether both search one collection with the same conditions, in whatever state."""
        mine = (self.name, self.filter, self.min_score)
        return self.gallery is other.gallery and mine == (other.name, other.filter, other.min_score)

    def search(
        self,
        queries: np.ndarray[Any, np.dtype[np.float32]],
        k: int,
        exclude: Ids[str] = (),
    ) -> list[list[Hit]]:
        """For each of the unit queries (Q, E) its best ``k``; fewer where there are no more."""
        try:
            return self.collection.search(
                queries, k, exclude=exclude, filter=self.filter, min_score=self.min_score
            )
        except BadFilter:
            return [[] for _ in queries]  # the request's field was there; its last image is gone

    def describe(self, hit: Hit, *, inline: bool = False) -> Json:
        """An image as replies show it; ``inline`` puts a small JPEG where the address stands."""
        record = self.collection.image(hit.id)
        described = describe(self.name, record)
        if inline and record.url is None:
            described["url"] = self._data_uri(hit.id) or described["url"]
        return {**described, "score": hit.score, "metadata": _bounded(record.metadata)}

    def _data_uri(self, id: str) -> str | None:
        for size in _INLINE_SIZES:
            data, content_type = self.collection.thumbnail(id, size)
            if len(data) <= _INLINE_BYTES:
                return f"data:{content_type};base64,{base64.b64encode(data).decode()}"
        return None


def describe(collection: str, record: ImageRecord) -> Json:
    """An image as listings show it."""
    where = f"{IMAGES_PATH}/{quote(collection, safe='')}/{quote(record.id, safe='')}"
    return {
        "id": record.id,
        "collection": collection,
        "key": record.key,
        "url": record.url or where,
        "width": record.width,
        "height": record.height,
        "metadata": record.metadata,
    }


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
