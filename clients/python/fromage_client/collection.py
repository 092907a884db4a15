"""The images of a collection: listed, added, changed, deleted."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, cast
from urllib.parse import quote

from .calls import Calls
from .errors import ServerError, server_error
from .images import ImageRef
from .messages import Upload, plain_part
from .pictures import as_picture, is_picture
from .reply import image_refs
from .wire import Request, run

if TYPE_CHECKING:
    from .messages import OwnImage

PAGE: Final = 100
"""Images that one request lists."""
BATCH: Final = 64
"""Images that one request adds: inline they stay within a body that the server takes."""


@dataclass(frozen=True, eq=False)
class NewImage:
    """An image to be added.

    `image` is a path or URL, bytes, a PIL image, a numpy array, a `Picture`, an `Upload`, or an
    image of a collection, which is copied; `key` its owner's name for it (by default the file's
    name, where it comes from a file), `metadata` what can be filtered by and is shown with it:
    strings, numbers, booleans and lists of them, by field.
    """

    image: OwnImage | Upload | ImageRef | str
    key: str | None = None
    metadata: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Added:
    """What became of one image: "exists" where the collection held the very same file already.

    `image` is None, and `error` says why, where it failed.
    """

    status: Literal["added", "exists", "failed"]
    image: ImageRef | None
    error: ServerError | None = None

    @classmethod
    def from_json(cls, data: Mapping[str, Any], server: str) -> Added:
        if data["status"] == "failed":
            return cls("failed", None, server_error(data))
        return cls(data["status"], ImageRef.from_json(data["image"], server))


Addition: TypeAlias = "OwnImage | Upload | ImageRef | NewImage | str"
"""What can be added."""


class CollectionCalls:
    """The requests about one collection, as `Collection` describes them."""

    def __init__(self, calls: Calls, name: str) -> None:
        self._calls = calls
        self.name = name
        self._path = f"/v1/collections/{quote(name, safe='')}"

    async def create(self) -> None:
        body = {"name": self.name}
        await self._calls.tell(Request("POST", "/v1/collections", json=body, repeatable=False))

    async def drop(self) -> None:
        await self._calls.tell(Request("DELETE", self._path, repeatable=False))

    async def add(
        self, images: Addition | Iterable[Addition], metadata: Mapping[str, Any] | None
    ) -> tuple[Added, ...]:
        left = _each(images)
        done: list[Added] = []
        while batch := list(islice(left, BATCH)):
            done += await self._add_batch([_new(image, metadata) for image in batch])
        return tuple(done)

    async def update(self, image: ImageRef | str, metadata: Mapping[str, Any]) -> ImageRef:
        request = Request("PATCH", self._of(image), json={"metadata": dict(metadata)})
        server = self._calls.base_url
        return await self._calls.ask(
            request, lambda data: ImageRef.from_json(data["image"], server)
        )

    async def delete(self, image: ImageRef | str) -> None:
        await self._calls.tell(Request("DELETE", self._of(image), repeatable=False))

    async def size(self) -> int:
        params: dict[str, str | int] = {"limit": 1}
        request = Request("GET", f"{self._path}/images", params=params)
        return await self._calls.ask(request, lambda data: int(data["total"]))

    def pages(self) -> Pages:
        return Pages(self._calls, f"{self._path}/images")

    async def _add_batch(self, images: list[NewImage]) -> tuple[Added, ...]:
        async def build() -> Request:
            rows = [await self._row(image) for image in images]
            return Request("POST", f"{self._path}/images", json={"images": rows})

        server = self._calls.base_url
        try:
            return await self._calls.json(
                build, lambda data: tuple(Added.from_json(row, server) for row in data["images"])
            )
        except ServerError as error:
            # The one image of a request fails as the request.
            if len(images) > 1 or not (error.param or "").startswith("images.0"):
                raise
            return (Added("failed", None, error),)

    async def _row(self, new: NewImage) -> dict[str, Any]:
        key = new.key
        if isinstance(new.image, Upload | ImageRef):
            part = plain_part(new.image)
        else:
            picture = as_picture(new.image)
            part = await self._calls.intake.image(picture)
            key = key or picture.name
        row = {name: value for name, value in part.items() if name != "type"}
        if key is not None:
            row["key"] = key
        if new.metadata is not None:
            row["metadata"] = dict(new.metadata)
        return row

    def _of(self, image: ImageRef | str) -> str:
        id = image.id if isinstance(image, ImageRef) else image
        return f"{self._path}/images/{quote(id)}"


class Pages:
    """A collection's images, page by page. What is added meanwhile may come or not; nothing that
    stays is left out or comes twice."""

    def __init__(self, calls: Calls, path: str) -> None:
        self._calls = calls
        self._path = path
        self._after: str | None = None
        self._over = False

    async def next(self) -> tuple[ImageRef, ...] | None:
        """The next images; None after the last."""
        if self._over:
            return None
        params: dict[str, str | int] = {"limit": PAGE}
        if self._after is not None:
            params["after"] = self._after
        images, self._after = await self._calls.ask(
            Request("GET", self._path, params=params), self._read
        )
        self._over = self._after is None
        return images

    def _read(self, data: Any) -> tuple[tuple[ImageRef, ...], str | None]:
        return image_refs(data["images"], self._calls.base_url), data["next"]


class Collection:
    """The images of one collection. `client.collection(name)` makes one."""

    def __init__(self, calls: CollectionCalls) -> None:
        self._calls = calls

    @property
    def name(self) -> str:
        """The collection's name."""
        return self._calls.name

    def add(
        self, images: Addition | Iterable[Addition], *, metadata: Mapping[str, Any] | None = None
    ) -> tuple[Added, ...]:
        """Adds one image or many; they are found from the next reply on.

        Args:
            images: Paths, URLs, bytes, PIL images, numpy arrays, uploads, images of a collection,
                or `NewImage`s, which have a key and metadata of their own. An iterator is read as
                it is sent.
            metadata: That of every image that has none of its own.

        Returns:
            What became of each, in order. One that the server
            can't read does not keep the others out; a file that can't be opened raises OSError.

        Images go in batches: after an error on the way, those of the batches before it are there,
        and adding them again does no harm.
        """
        return run(self._calls.add(images, metadata))

    def images(self) -> Iterator[ImageRef]:
        """All images, the newest first, in pages that are asked for as they are needed."""
        pages = self._calls.pages()
        while (page := run(pages.next())) is not None:
            yield from page

    def size(self) -> int:
        """How many images there are."""
        return run(self._calls.size())

    def update(self, image: ImageRef | str, metadata: Mapping[str, Any]) -> ImageRef:
        """Changes the metadata of an image, or of the one of that id.

        Args:
            image: The image, or its id.
            metadata: Fields to set. None takes one away; others stay.

        Returns:
            The image as it is now.
        """
        return run(self._calls.update(image, metadata))

    def delete(self, image: ImageRef | str) -> None:
        """Takes an image, or the one of that id, out of the collection."""
        run(self._calls.delete(image))

    def drop(self) -> None:
        """Deletes the collection and all that is in it."""
        run(self._calls.drop())


class AsyncCollection:
    """`Collection` for asyncio."""

    def __init__(self, calls: CollectionCalls) -> None:
        self._calls = calls

    @property
    def name(self) -> str:
        """The collection's name."""
        return self._calls.name

    async def add(
        self, images: Addition | Iterable[Addition], *, metadata: Mapping[str, Any] | None = None
    ) -> tuple[Added, ...]:
        """Adds one image or many; they are found from the next reply on."""
        return await self._calls.add(images, metadata)

    async def images(self) -> AsyncIterator[ImageRef]:
        """All images, the newest first, in pages that are asked for as they are needed."""
        pages = self._calls.pages()
        while (page := await pages.next()) is not None:
            for image in page:
                yield image

    async def size(self) -> int:
        """How many images there are."""
        return await self._calls.size()

    async def update(self, image: ImageRef | str, metadata: Mapping[str, Any]) -> ImageRef:
        """Changes the metadata of an image, or of the one of that id."""
        return await self._calls.update(image, metadata)

    async def delete(self, image: ImageRef | str) -> None:
        """Takes an image, or the one of that id, out of the collection."""
        await self._calls.delete(image)

    async def drop(self) -> None:
        """Deletes the collection and all that is in it."""
        await self._calls.drop()


def _each(images: Addition | Iterable[Addition]) -> Iterator[Addition]:
    """One image, though it may be one that can be iterated over (bytes, an array), or many."""
    if isinstance(images, str | NewImage | Upload | ImageRef) or is_picture(images):
        yield cast("Addition", images)
    else:
        yield from cast("Iterable[Addition]", images)


def _new(image: Addition, metadata: Mapping[str, Any] | None) -> NewImage:
    if not isinstance(image, NewImage):
        return NewImage(image, metadata=metadata)
    return image if image.metadata is not None else replace(image, metadata=metadata)
