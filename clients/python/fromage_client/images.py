"""Images of a collection, as replies and listings name them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Any, Final

from .exchange import Exchange
from .pictures import from_data_url
from .rich import Figure, Rich
from .wire import BlockingWire, Request, run

THUMBNAIL: Final = 512
"""Pixels of the longer side of what a notebook shows."""
_TIMEOUT_S: Final = 30.0


@dataclass(frozen=True)
class ImageRef(Rich):
    """One image of a collection.

    `id` is the server's name for it, `key` its owner's (a path, an address). `score` is a cosine in
    [-1, 1], None where nothing was searched for. `width` and `height` (pixels) are None for one
    that the server knows by its URL only. `url` is relative to the server, absolute, or a `data:`
    URL; `address` is absolute in every case.
    """

    id: str
    collection: str
    key: str
    url: str
    score: float | None = None
    width: int | None = None
    height: int | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    server: str = field(default="", repr=False, compare=False)

    @classmethod
    def from_json(cls, data: Mapping[str, Any], server: str) -> ImageRef:
        return cls(**{k: v for k, v in data.items() if k in _FIELDS}, server=server)

    def to_json(self) -> dict[str, Any]:
        """As the server wrote it."""
        return {name: getattr(self, name) for name in _FIELDS}

    @property
    def address(self) -> str:
        return absolute(self.url, self.server)

    @property
    def label(self) -> str:
        """Its caption, where its metadata has one; else its key."""
        caption = self.metadata.get("caption")
        return caption if isinstance(caption, str) and caption.strip() else self.key

    def read(self, *, size: int | None = None) -> bytes:
        """The image's bytes; with `size` a thumbnail of that many pixels on its longer side,
        where the server holds the image.

        Works after the client is closed, and blocks: in async code, `await client.image(ref)`.
        """
        return run(_read(self, size))

    def save(self, path: str | Path, *, size: int | None = None) -> Path:
        """Writes the image's bytes, as `read` gets them, to a file; its path."""
        target = Path(path)
        target.write_bytes(self.read(size=size))
        return target

    def _pieces(self) -> Iterable[str | Figure]:
        return [self.figure()]

    def figure(self) -> Figure:
        """What stands for it in HTML. Elsewhere than at the server it is left to the browser."""
        label = self.label if self.score is None else f"{self.label} ({self.score:.2f})"
        here = self.url.startswith(("/", "data:"))
        load = partial(self.read, size=THUMBNAIL) if here else None
        return Figure(label, self.address, self.width, self.height, load)


_FIELDS: Final = tuple(item.name for item in fields(ImageRef) if item.name != "server")


def absolute(url: str, server: str) -> str:
    return server + url if url.startswith("/") else url


async def _read(image: ImageRef, size: int | None) -> bytes:
    wire = BlockingWire(image.server, _TIMEOUT_S)
    try:
        return await read_image(Exchange(wire, retries=1), image.url, size)
    finally:
        await wire.close()


async def read_image(exchange: Exchange, url: str, size: int | None) -> bytes:
    """An image's bytes by its URL, or those of a thumbnail of `size` pixels."""
    if url.startswith("data:"):
        return from_data_url(url)
    params = {"size": size} if size is not None and url.startswith("/") else None
    return await exchange.read(Request("GET", url, params=params))
