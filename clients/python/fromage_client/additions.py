"""Images on their way into a collection: in batches, each with its own success or failure."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, cast

from .calls import Calls
from .errors import FromageError, InvalidRequest, ServerError, UnreadableFile, server_error
from .images import ImageRef
from .messages import Upload, plain_part
from .pictures import as_picture, data_url, is_picture
from .plain import plain_json
from .wire import Request

if TYPE_CHECKING:
    from .messages import OwnImage

BATCH: Final = 64
"""Images that one request adds, at most."""
BATCH_BYTES: Final = 8 << 20
"""Bytes that they have together, at most: inline they stay within a body that the server takes. A
larger image is uploaded, and goes alone."""
_TOO_LARGE: Final = 413
_PLACE: Final = re.compile(r"images\.(\d+)(?:\.|$)")

Json = dict[str, Any]


@dataclass(frozen=True, eq=False)
class NewImage:
    """An image to be added.

    `image` is a path or URL, bytes, a PIL image, a numpy array, a `Picture`, an `Upload`, or an
    image of a collection, which is copied; `key` its owner's name for it (by default the file's
    name, where it comes from a file), `metadata` what can be filtered by and is shown with it:
    strings, numbers, booleans and lists of them, by field. numpy's numbers and arrays are taken as
    Python's. An image that is copied has its own key and metadata where none are said.
    """

    image: OwnImage | Upload | ImageRef | str
    key: str | None = None
    metadata: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Added:
    """What became of one image: "exists" where the collection held the very same file already.

    `image` is None, and `error` says why, where it failed: a `ServerError`, or what kept it from
    being sent, an `UnreadableFile`, `UnusablePicture`, `UnusableMetadata` or, of its URL,
    `TransportFailed`.
    """

    status: Literal["added", "exists", "failed"]
    image: ImageRef | None
    error: FromageError | None = None

    @classmethod
    def from_json(cls, data: Mapping[str, Any], server: str) -> Added:
        if data["status"] == "failed":
            return cls("failed", None, server_error(data))
        return cls(data["status"], ImageRef.from_json(data["image"], server))

    @property
    def lost_its_upload(self) -> bool:
        return isinstance(self.error, ServerError) and self.error.code == "upload_not_found"


Addition: TypeAlias = "OwnImage | Upload | ImageRef | NewImage | str"
"""What can be added."""


@dataclass(frozen=True, eq=False)
class _Row:
    """An image as a request has it: `about` it, and its file, or the `part` that names it."""

    about: Json
    data: bytes | None = None
    part: Json | None = None

    @property
    def size(self) -> int:
        return len(self.data or b"")


class Additions:
    """Adds to the collection whose images are at `path`."""

    def __init__(self, calls: Calls, path: str) -> None:
        self._calls = calls
        self._path = path

    async def add(
        self, images: Addition | Iterable[Addition], metadata: Mapping[str, Any] | None
    ) -> tuple[Added, ...]:
        done: list[Added] = []
        batch: list[_Row | FromageError] = []
        size = 0
        for image in _each(images):
            row = await self._row(_new(image, metadata))
            more = row.size if isinstance(row, _Row) else 0
            if batch and (len(batch) == BATCH or size + more > BATCH_BYTES):
                done += await self._add_batch(batch)
                batch, size = [], 0
            batch.append(row)
            size += more
        return (*done, *await self._add_batch(batch))

    async def _add_batch(self, batch: list[_Row | FromageError]) -> list[Added]:
        rows = [row for row in batch if isinstance(row, _Row)]
        sent = iter(await self._send(rows))
        return [next(sent) if isinstance(row, _Row) else _failed(row) for row in batch]

    async def _send(self, rows: list[_Row]) -> list[Added]:
        """What became of each. A request that is refused because of one image goes out again
        without it; one that is too much, in halves."""
        if not rows:
            return []
        if len(rows) == 1 and rows[0].size > BATCH_BYTES:
            return [await self._send_uploaded(rows[0])]
        try:
            return await self._post([_json(row) for row in rows])
        except ServerError as error:
            if error.status == _TOO_LARGE or error.code == "invalid_json":  # nested too deeply
                return await self._send_shorter(rows)
            place = _place(error, len(rows))
            if place is None:
                raise
            rest = await self._send(rows[:place] + rows[place + 1 :])
            return [*rest[:place], _failed(error), *rest[place:]]

    async def _send_shorter(self, rows: list[_Row]) -> list[Added]:
        if len(rows) == 1:
            return [await self._send_uploaded(rows[0])]
        half = len(rows) // 2
        return [*await self._send(rows[:half]), *await self._send(rows[half:])]

    async def _send_uploaded(self, row: _Row) -> Added:
        """As its file's own bytes, which are a quarter less; again where the server, short of room,
        dropped it before it was named."""
        added = await self._upload_and_send(row)
        return await self._upload_and_send(row) if added.lost_its_upload else added

    async def _upload_and_send(self, row: _Row) -> Added:
        try:
            if row.data is not None:
                upload = await self._calls.intake.upload(row.data)
                row = _Row(row.about, part=plain_part(upload))
            (added,) = await self._post([_json(row)])
        except ServerError as error:
            if isinstance(error, InvalidRequest) or _place(error, 1) is not None:
                return _failed(error)
            raise
        return added

    async def _post(self, rows: list[Json]) -> list[Added]:
        server = self._calls.base_url

        def read(data: Any) -> list[Added]:
            added = [Added.from_json(row, server) for row in data["images"]]
            if len(added) != len(rows):
                raise ValueError("an answer for another number of images")
            return added

        return await self._calls.ask(Request("POST", self._path, json={"images": rows}), read)

    async def _row(self, new: NewImage) -> _Row | FromageError:
        """Or what is wrong with it here."""
        try:
            about = {} if new.key is None else {"key": plain_json("key", new.key)}
            if new.metadata is not None:
                about["metadata"] = plain_json("metadata", new.metadata)
            if isinstance(new.image, Upload | ImageRef):
                return _Row(about, part=plain_part(new.image))
            picture = as_picture(new.image)
            data = await self._calls.intake.read(picture)
        except FromageError as error:
            return error
        except (OSError, ValueError) as error:  # no path can hold a null character
            unreadable = UnreadableFile(str(error))
            unreadable.__cause__ = error
            return unreadable
        if picture.name is not None:
            about.setdefault("key", _printable(picture.name))
        return _Row(about, data)


def _printable(name: str) -> str:
    """A file's name as text that anybody can print: a system's need not be UTF-8."""
    return os.fsencode(name).decode("utf-8", "replace")


def _json(row: _Row) -> Json:
    if row.part is not None:
        named = {name: value for name, value in row.part.items() if name != "type"}
    else:
        named = {"image_url": {"url": data_url(row.data or b"")}}
    return {**named, **row.about}


def _place(error: ServerError, rows: int) -> int | None:
    """Of the image that a request was refused for."""
    found = _PLACE.match(error.param or "")
    place = int(found[1]) if found else rows
    return place if place < rows else None


def _failed(error: FromageError) -> Added:
    return Added("failed", None, error)


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
