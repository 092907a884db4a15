"""Messages and prompts as callers write them, turned into the server's JSON.

Content is a text, or a list of parts: `str` (text), an image of one's own (`pathlib.Path`, `bytes`,
a PIL image, a numpy array, or a `Picture` of any source), `Upload`, `ImageRef` (an image of a
collection), the parts of a `Reply`, or a part's own JSON. An image of up to `INLINE_LIMIT` bytes
travels inside the request; a larger one is uploaded first, once for all requests that hold it.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from .errors import ServerError, UnexpectedAnswer, UnusablePicture
from .exchange import Exchange
from .images import ImageRef
from .pictures import UNKNOWN, Picture, as_picture, content_type, data_url, is_picture
from .reply import ImagePart, TextPart, record
from .wire import Request, Wire

if TYPE_CHECKING:
    from pathlib import Path

    import numpy
    from PIL import Image

INLINE_LIMIT: Final = 256 << 10
"""Bytes up to which an image travels inside the request, whenever the history does; a larger one is
uploaded first. Of smaller ones a history may hold 90 within the server's default of 32 MiB."""
_FETCH_LIMIT: Final = 64 << 20
_SOON_S: Final = 60

Json = dict[str, Any]


@dataclass(frozen=True)
class Upload:
    """An image the server holds until `expires_at` (Unix time). Sizes in pixels."""

    id: str
    width: int
    height: int
    expires_at: int


OwnImage: TypeAlias = "Picture | Path | bytes | Image.Image | numpy.ndarray[Any, Any]"
ContentPart: TypeAlias = (
    "str | OwnImage | Upload | ImageRef | TextPart | ImagePart | Mapping[str, Any]"
)
Content: TypeAlias = "str | Sequence[ContentPart]"
Messages: TypeAlias = "str | Sequence[Mapping[str, Any]]"


class Intake:
    """Takes in content: reads the images, decides how they travel, and remembers the uploads."""

    def __init__(self, wire: Wire, exchange: Exchange) -> None:
        self._wire = wire
        self._exchange = exchange
        self._held: dict[str, Upload] = {}

    async def messages(self, messages: Messages) -> list[Json]:
        """Messages in the server's form; one text is one message of the user's."""
        if isinstance(messages, str):
            messages = [{"role": "user", "content": messages}]
        return [await self._message(message) for message in messages]

    async def content(self, content: Content) -> str | list[Json]:
        """A text as it is, parts each in the server's form."""
        if isinstance(content, str):
            return content
        return [await self._part(part) for part in content]

    async def image(self, picture: Picture) -> Json:
        """An image's part. Its `type` aside, it is how any request names an image."""
        return await self.part(await self.read(picture))

    async def part(self, data: bytes) -> Json:
        """The part of an image that was read."""
        if len(data) > INLINE_LIMIT:
            upload = await self._upload_once(data)
            return {"type": "image", "image": {"upload": upload.id}}
        return {"type": "image_url", "image_url": {"url": data_url(data)}}

    async def read(self, picture: Picture) -> bytes:
        """The bytes of an image of one's own. Raises OSError, UnusablePicture, TransportFailed."""
        if picture.url is not None:
            return await self._fetch(picture.url)
        return await self._wire.compute(picture.read)

    async def upload(self, data: bytes) -> Upload:
        kind = content_type(data)
        # The server looks for itself, and says better than anybody here what it doesn't take.
        headers = {"content-type": kind if kind != UNKNOWN else "image/x-unknown"}
        request = Request("POST", "/v1/uploads", content=data, headers=headers)
        answer = await self._exchange.read(request)
        try:
            return record(Upload, json.loads(answer))
        except (ValueError, TypeError, AttributeError) as error:
            raise UnexpectedAnswer(f"not an upload: {answer[:80]!r}") from error

    def forget_uploads(self) -> bool:
        """Where the server has dropped one; False where there are none to send again."""
        held = bool(self._held)
        self._held.clear()
        return held

    async def _message(self, message: Mapping[str, Any]) -> Json:
        encoded = dict(message)
        if "content" in message:
            encoded["content"] = await self.content(message["content"])
        return encoded

    async def _part(self, part: ContentPart) -> Json:
        return await self.image(as_picture(part)) if is_picture(part) else plain_part(part)

    async def _upload_once(self, data: bytes) -> Upload:
        """A history is sent again every turn; its large images are not."""
        digest = hashlib.sha256(data).hexdigest()
        held = self._held.get(digest)
        if held is None or held.expires_at < time.time() + _SOON_S:
            held = self._held[digest] = await self.upload(data)
        return held

    async def _fetch(self, url: str) -> bytes:
        try:
            body = await self._exchange.open(Request("GET", url))
        except ServerError as error:
            raise UnusablePicture(f"{url} answers {error.status}") from error
        data = await body.whole(_FETCH_LIMIT)
        if len(data) > _FETCH_LIMIT:
            raise UnusablePicture(f"{url} has more than {_FETCH_LIMIT:,} bytes")
        return data


def plain_part(part: object) -> Json:
    """The JSON of a part that is no image of one's own."""
    match part:
        case str():
            return {"type": "text", "text": part}
        case Upload():
            return {"type": "image", "image": {"upload": part.id}}
        case ImageRef():
            return {"type": "image", "image": {"collection": part.collection, "id": part.id}}
        case TextPart() | ImagePart():
            return part.to_json()
        case Mapping():
            return dict(part)
    kinds = "text, an image of one's own, Upload, ImageRef, a part of a reply or a mapping"
    raise TypeError(f"a content part is {kinds}, not {type(part).__name__}")
