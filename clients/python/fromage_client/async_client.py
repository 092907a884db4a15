"""The client for asyncio. What it does is `Calls`, as for `Client`."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Unpack

from .calls import Calls
from .collection import AsyncCollection, CollectionCalls
from .conversation import AsyncConversation
from .images import ImageRef, absolute
from .options import ChatOptions, GenerateOptions, RetrieveOptions, ScoreOptions
from .reply import CollectionInfo, ModelInfo, Reply, Retrieval, Score
from .streams import AsyncReplyStream
from .wire import AsyncWire

if TYPE_CHECKING:
    from .messages import Content, Messages, OwnImage, Upload


class AsyncClient:
    """`Client` for asyncio: the same methods with the same arguments and errors, to be awaited.

    Streams and pages are for `async for`. A task that is cancelled while it waits for a reply hangs
    up, and the server stops generating.
    """

    def __init__(
        self, base_url: str = "http://127.0.0.1:8000", *, timeout: float = 300, retries: int = 3
    ) -> None:
        self._calls = Calls(base_url, AsyncWire(base_url, timeout), retries)

    @property
    def base_url(self) -> str:
        """The server's address, without a slash at its end."""
        return self._calls.base_url

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Closes the connections; streams that still run end, here and on the server."""
        await self._calls.close()

    async def chat(self, messages: Messages, **options: Unpack[ChatOptions]) -> Reply:
        """The reply to a conversation."""
        return await self._calls.chat(messages, options)

    def stream(self, messages: Messages, **options: Unpack[ChatOptions]) -> AsyncReplyStream:
        """The reply to a conversation, as events while it is generated."""
        return AsyncReplyStream(self._calls.chat_events(messages, options))

    def conversation(
        self, system: str | None = None, **options: Unpack[ChatOptions]
    ) -> AsyncConversation:
        """A conversation that keeps its history."""
        return AsyncConversation(self._calls, system, options)

    async def generate(self, prompt: Content, **options: Unpack[GenerateOptions]) -> Reply:
        """What follows a raw prompt."""
        return await self._calls.generate(prompt, options)

    def stream_generate(
        self, prompt: Content, **options: Unpack[GenerateOptions]
    ) -> AsyncReplyStream:
        """What follows a raw prompt, as events while it is generated."""
        return AsyncReplyStream(self._calls.generate_events(prompt, options))

    async def retrieve(self, prompt: Content, **options: Unpack[RetrieveOptions]) -> Retrieval:
        """The images that [RET] after this context brings, best first."""
        return await self._calls.retrieve(prompt, options)

    async def score(self, prompt: Content, **options: Unpack[ScoreOptions]) -> tuple[Score, ...]:
        """How likely texts are."""
        return await self._calls.score(prompt, options)

    async def upload(self, image: OwnImage | str) -> Upload:
        """Hands the server an image, to be named in later requests while it is kept."""
        return await self._calls.upload(image)

    async def image(self, image: ImageRef | str, *, size: int | None = None) -> bytes:
        """An image's bytes; with `size` those of a thumbnail."""
        return await self._calls.image(image, size)

    def absolute(self, url: str) -> str:
        """A URL of a reply, with the server's address in front where it is relative to it."""
        return absolute(url, self.base_url)

    async def models(self) -> tuple[ModelInfo, ...]:
        """The models that the server runs."""
        return await self._calls.models()

    async def collections(self) -> tuple[CollectionInfo, ...]:
        """The collections that can be searched."""
        return await self._calls.collections()

    def collection(self, name: str) -> AsyncCollection:
        """The images of one collection, to be listed, added and deleted. Asks nothing yet."""
        return AsyncCollection(CollectionCalls(self._calls, name))

    async def create_collection(self, name: str) -> AsyncCollection:
        """A new, empty collection."""
        await CollectionCalls(self._calls, name).create()
        return self.collection(name)

    async def health(self) -> None:
        """Returns while the server's process can do its work, ready or not; else raises."""
        await self._calls.health()

    async def ready(self) -> None:
        """Returns where requests are served; else raises `NotReady`."""
        await self._calls.ready()

    async def wait_until_ready(
        self, within: float = 600, progress: Callable[[str], None] | None = None
    ) -> None:
        """Returns once requests are served, also by a server that does not listen yet."""
        await self._calls.wait_until_ready(within, progress)
