"""What may be changed of the collections, and how: pictures, metadata, whole collections."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fromage_index.collection import Collection
from fromage_index.editor import (
    Amendment,
    Change,
    Done,
    Outcome,
    Removal,
    create_collection,
    drop_collection,
)
from fromage_index.errors import (
    BadKey,
    BadMetadata,
    CollectionBusy,
    CollectionExists,
    CollectionNotFound,
    ImageNotFound,
    IndexFailure,
)
from fromage_index.manifest import Provenance
from fromage_index.record import Metadata
from fromage_server.additions import NewPicture
from fromage_server.errors import ApiError
from fromage_server.gallery import Gallery, describe
from fromage_server.ingest import Embedded, Ingest
from fromage_server.live import Commit, LiveCollection
from fromage_server.media import MediaReader, SourceImage
from fromage_server.workers import Workers

Json = dict[str, Any]
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Place:
    """Where new collections are made, and for which bundle."""

    directory: Path
    provenance: Provenance
    dim: int
    device: str


class Curator:
    """Methods run on the event loop; what is heavy goes to threads. Raises ApiError."""

    def __init__(
        self,
        gallery: Gallery,
        media: MediaReader,
        ingest: Ingest,
        workers: Workers,
        place: Place,
        *,
        read_only: bool,
    ) -> None:
        self._gallery = gallery
        self._media = media
        self._ingest = ingest
        self._workers = workers
        self._place = place
        self._read_only = read_only

    def writable(self, live: LiveCollection) -> bool:
        return not self._read_only and os.access(live.snapshot.directory, os.W_OK | os.X_OK)

    async def create(self, name: str) -> LiveCollection:
        self._check_allowed()
        return await self._workers.files(self._create, name)

    async def drop(self, name: str) -> None:
        self._check_allowed()
        await self._workers.files(self._drop, self._gallery.live(name))

    async def add(self, name: str, pictures: Sequence[NewPicture]) -> Json:
        """Each picture's own success or failure, and the collection's size."""
        live = self._changeable(name)
        found = await self._workers.files(self._read, live, pictures)
        new = {i: image for i, image in enumerate(found) if isinstance(image, SourceImage)}
        embedded = await self._embed(list(new.values()))
        made: dict[int, Embedded] = {}
        for i, one in zip(new, embedded, strict=True):
            if isinstance(one, Embedded):
                made[i] = one
            else:
                found[i] = one
        changes = await self._workers.files(
            lambda: {i: pictures[i].addition(new[i], made[i], self._gallery) for i in made}
        )
        commit = await self._commit(live, list(changes.values()))
        for i, outcome in zip(changes, commit.outcomes, strict=True):
            found[i] = _held(outcome, commit.collection, pictures[i].param)
        answers = await self._workers.files(_answers, name, found)
        return {"collection": name, "images": answers, "size": commit.collection.size}

    async def page(self, name: str, limit: int, after: int | None) -> Json:
        return await self._workers.files(self._page, name, limit, after)

    async def amend(self, name: str, id: str, metadata: Metadata) -> Json:
        """The image as it is then."""
        held = await self._change(name, Amendment(id, metadata), param="metadata")
        return await self._workers.files(held.describe, name)

    async def remove(self, name: str, id: str) -> None:
        await self._change(name, Removal(id), param=None)

    def _check_allowed(self) -> None:
        if self._read_only:
            raise ApiError("read_only", "this server was started with --read-only: nothing changes")

    def _changeable(self, name: str) -> LiveCollection:
        self._check_allowed()
        live = self._gallery.live(name)
        if not self.writable(live):
            self._gallery.check(live)
            raise ApiError(
                "read_only", f"this server cannot write the files of the collection {name!r}"
            )
        return live

    def _create(self, name: str) -> LiveCollection:
        place = self._place
        out = place.directory / name
        if not self._gallery.takes(name):
            raise ApiError("collection_exists", f"there is a collection {name!r}", param="name")
        try:
            create_collection(
                out, dim=place.dim, provenance=place.provenance, source="made over HTTP"
            )
            collection = Collection.open(out, device=place.device)
        except CollectionExists as error:
            raise ApiError("collection_exists", str(error), param="name") from None
        except CollectionNotFound as error:  # a command was quick to drop it
            raise refusal(CollectionBusy(str(error))) from error
        except IndexFailure as error:
            raise refusal(error) from error
        live = LiveCollection(name, collection, droppable=True)
        self._gallery.add(live)
        return live

    def _drop(self, live: LiveCollection) -> None:
        if not live.droppable:
            raise ApiError(
                "not_droppable",
                f"the collection {live.name!r} was given to the server at its start; only those "
                f"made with POST /v1/collections, or in {self._place.directory}, can be dropped",
            )
        self._gallery.remove(live)
        live.close()
        directory = live.snapshot.directory
        try:
            drop_collection(directory)
        except CollectionNotFound as error:
            raise refusal(error) from error
        except IndexFailure as error:
            self._gallery.add(LiveCollection(live.name, live.snapshot, droppable=True))
            raise refusal(error) from error
        log.info("collection %s is dropped", live.name)

    def _read(
        self, live: LiveCollection, pictures: Sequence[NewPicture]
    ) -> list[_Held | SourceImage | ApiError]:
        collection = live.latest()
        return [self._read_one(collection, picture) for picture in pictures]

    def _read_one(
        self, collection: Collection, picture: NewPicture
    ) -> _Held | SourceImage | ApiError:
        """What is there already need not be embedded."""
        source = picture.source
        try:
            image = source if isinstance(source, SourceImage) else self._media.read([source])[0]
        except ApiError as error:
            return error
        id = collection.with_content(image.digest)
        return image if id is None else _Held(collection, id, changed=False)

    async def _embed(self, images: Sequence[SourceImage]) -> list[Embedded | ApiError]:
        waiting = [asyncio.wrap_future(self._ingest.submit(image)) for image in images]
        results: list[Embedded | ApiError] = []
        for made in await asyncio.gather(*waiting, return_exceptions=True):
            if isinstance(made, asyncio.CancelledError):
                raise _stopping()
            if not isinstance(made, Embedded | ApiError):
                raise made
            results.append(made)
        return results

    async def _change(self, name: str, change: Change, *, param: str | None) -> _Held:
        commit = await self._commit(self._changeable(name), [change])
        outcome = commit.outcomes[0]
        if not isinstance(outcome, Done):
            raise refusal(outcome, param=param)
        return _Held(commit.collection, outcome.id, outcome.changed)

    async def _commit(self, live: LiveCollection, changes: Sequence[Change]) -> Commit:
        done: Future[Commit] = live.submit(changes)
        try:
            return await asyncio.wrap_future(done)
        except IndexFailure as error:
            raise refusal(error) from error
        except asyncio.CancelledError:
            if not done.cancelled():
                raise  # it is the request that was
            self._gallery.check(live)
            raise _stopping() from None

    def _page(self, name: str, limit: int, after: int | None) -> Json:
        collection = self._gallery.collection(name)
        page = collection.page(limit, after)
        return {
            "images": [describe(name, record) for record in page.images],
            "next": None if page.next is None else str(page.next),
            "total": collection.size,
        }


@dataclass(frozen=True)
class _Held:
    """An image, and the state of the collection in which it was seen."""

    collection: Collection
    id: str
    changed: bool

    def describe(self, name: str) -> Json:
        """Raises ApiError where the commit that changed it removed it, too."""
        try:
            return describe(name, self.collection.image(self.id))
        except ImageNotFound:
            raise ApiError("image_not_found", f"the image {self.id} is removed meanwhile") from None


def _held(outcome: Outcome, collection: Collection, param: str) -> _Held | ApiError:
    if isinstance(outcome, Done):
        return _Held(collection, outcome.id, outcome.changed)
    return refusal(outcome, param=param)


def _answers(name: str, found: Sequence[_Held | SourceImage | ApiError]) -> list[Json]:
    """Raises the error where there is but one picture."""
    answers: list[Json] = []
    for one in found:
        try:
            if isinstance(one, ApiError):
                raise one
            assert isinstance(one, _Held)
            status = "added" if one.changed else "exists"
            answers.append({"status": status, "image": one.describe(name)})
        except ApiError as error:
            if len(found) == 1:
                raise
            answers.append({"status": "failed", **error.envelope()})
    return answers


def _stopping() -> ApiError:
    return ApiError("not_ready", "the server is stopping", retry_after=5)


def refusal(error: IndexFailure, *, param: str | None = None) -> ApiError:
    """What a failed change is to its client."""
    match error:
        case ImageNotFound():
            return ApiError("image_not_found", str(error))
        case CollectionNotFound():
            return ApiError("collection_not_found", str(error))
        case CollectionBusy():
            return ApiError("collection_busy", str(error), retry_after=2)
        case BadMetadata() | BadKey():
            return ApiError("invalid_value", str(error), param=param)
        case _:
            log.error("a collection cannot be changed: %s", error)
            return ApiError("storage_failed", str(error))
