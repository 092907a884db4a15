"""The images of a collection: listed, added, changed, deleted."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from typing import Any, Final
from urllib.parse import quote

from .additions import Added, Addition, Additions
from .calls import Calls
from .images import ImageRef
from .plain import plain_json
from .reply import image_refs
from .wire import Request, run

PAGE: Final = 100
"""Images that one request lists."""


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
        return await Additions(self._calls, f"{self._path}/images").add(images, metadata)

    async def update(self, image: ImageRef | str, metadata: Mapping[str, Any]) -> ImageRef:
        changes = {"metadata": plain_json("metadata", metadata)}
        request = Request("PATCH", self._of(image), json=changes)
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
            What became of each, in order. One that can't be read, here or by the server, is too
            large for it, or has a key or metadata that it refuses, does not keep the others out.

        Images go in batches: after an error on the way, of the connection or of the collection,
        those of the batches before it are there, and adding them again does no harm.
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

        Raises UnusableMetadata for what JSON can't hold.
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
