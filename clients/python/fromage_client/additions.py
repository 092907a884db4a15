"""Images on their way into a collection: in batches, each with its own success or failure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, cast

from .calls import Calls
from .errors import FromageError, ServerError, UnreadableFile, server_error
from .images import ImageRef
from .messages import Upload, plain_part
from .pictures import as_picture, is_picture
from .wire import Request

if TYPE_CHECKING:
    from .messages import OwnImage

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

    `image` is None, and `error` says why, where it failed: a `ServerError`, or what kept it from
    being sent, an `UnreadableFile`, `UnusablePicture` or, of its URL, `TransportFailed`.
    """

    status: Literal["added", "exists", "failed"]
    image: ImageRef | None
    error: FromageError | None = None

    @classmethod
    def from_json(cls, data: Mapping[str, Any], server: str) -> Added:
        if data["status"] == "failed":
            return cls("failed", None, server_error(data))
        return cls(data["status"], ImageRef.from_json(data["image"], server))


Addition: TypeAlias = "OwnImage | Upload | ImageRef | NewImage | str"
"""What can be added."""


class Additions:
    """Adds to the collection whose images are at `path`."""

    def __init__(self, calls: Calls, path: str) -> None:
        self._calls = calls
        self._path = path

    async def add(
        self, images: Addition | Iterable[Addition], metadata: Mapping[str, Any] | None
    ) -> tuple[Added, ...]:
        left = _each(images)
        done: list[Added] = []
        while batch := list(islice(left, BATCH)):
            done += await self._add_batch([_new(image, metadata) for image in batch])
        return tuple(done)

    async def _add_batch(self, images: list[NewImage]) -> list[Added]:
        failed: dict[int, Added] = {}  # by their places, those that cannot be sent
        server = self._calls.base_url

        async def build() -> Request:
            failed.clear()
            rows = []
            for place, image in enumerate(images):
                row = await self._row(image)
                if isinstance(row, FromageError):
                    failed[place] = Added("failed", None, row)
                else:
                    rows.append(row)
            if not rows:
                raise _NothingToSend
            return Request("POST", self._path, json={"images": rows})

        def read(data: Any) -> list[Added]:
            rows = [Added.from_json(row, server) for row in data["images"]]
            if len(rows) != len(images) - len(failed):
                raise ValueError("an answer for another number of images")
            return rows

        try:
            sent = iter(await self._calls.json(build, read))
        except _NothingToSend:
            sent = iter(())
        except ServerError as error:
            # The one image of a request fails as the request.
            if len(images) - len(failed) > 1 or not (error.param or "").startswith("images.0"):
                raise
            sent = iter([Added("failed", None, error)])
        return [failed[place] if place in failed else next(sent) for place in range(len(images))]

    async def _row(self, new: NewImage) -> dict[str, Any] | FromageError:
        """An image as the request has it, or what is wrong with it here."""
        key = new.key
        if isinstance(new.image, Upload | ImageRef):
            part = plain_part(new.image)
        else:
            picture = as_picture(new.image)
            try:
                data = await self._calls.intake.read(picture)
            except FromageError as error:
                return error
            except (OSError, ValueError) as error:  # no path can hold a null character
                unreadable = UnreadableFile(str(error))
                unreadable.__cause__ = error
                return unreadable
            part = await self._calls.intake.part(data)
            key = key or picture.name
        row = {name: value for name, value in part.items() if name != "type"}
        if key is not None:
            row["key"] = key
        if new.metadata is not None:
            row["metadata"] = dict(new.metadata)
        return row


class _NothingToSend(Exception):
    """None of a batch's images can be."""


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
