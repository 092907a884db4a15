"""The blocking client: one method per request of the server."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Unpack

from .calls import Calls
from .collection import Collection, CollectionCalls
from .conversation import Conversation
from .images import ImageRef, absolute
from .options import ChatOptions, GenerateOptions, RetrieveOptions, ScoreOptions
from .reply import CollectionInfo, ModelInfo, Reply, Retrieval, Score
from .streams import ReplyStream
from .wire import BlockingWire, run

if TYPE_CHECKING:
    from .messages import Content, Messages, OwnImage, Upload


class Client:
    """Talks to one server. Safe to share between threads; close it, or use it in a `with`.

    Args:
        base_url: The server's address.
        timeout: Seconds of silence that are borne, not those of the whole answer: a stream's
            keep-alives count as words. An answer without `stream` is silent until it is whole.
        retries: How often a request is sent again where the server refuses it for now (429, 503),
            after the time it asks for in Retry-After or else after 0.5, 1, 2, ... 8 s, or where the
            connection fails before the first byte of the answer. Once something has come, nothing
            is sent again; nor is what can be done only once, unless it was refused or never sent.

    Every method raises a `FromageError`: see `fromage_client.errors`.
    """

    def __init__(
        self, base_url: str = "http://127.0.0.1:8000", *, timeout: float = 300, retries: int = 3
    ) -> None:
        self._calls = Calls(base_url, BlockingWire(base_url, timeout), retries)

    @property
    def base_url(self) -> str:
        """The server's address, without a slash at its end."""
        return self._calls.base_url

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connections; streams that still run end, here and on the server."""
        run(self._calls.close())

    def chat(self, messages: Messages, **options: Unpack[ChatOptions]) -> Reply:
        """The reply to a conversation.

        Args:
            messages: The history, oldest first: `{"role": "user", "content": ...}`, where content
                is a text or a list of texts and images (see `fromage_client.messages`), and a
                `Reply.message` stands for what the assistant said. One text is one question.
            **options: See `ChatOptions`.
        """
        return run(self._calls.chat(messages, options))

    def stream(self, messages: Messages, **options: Unpack[ChatOptions]) -> ReplyStream:
        """The reply to a conversation, as events while it is generated. Takes what `chat` takes.

        The request goes out when the first event is asked for.
        """
        return ReplyStream(self._calls.chat_events(messages, options))

    def conversation(
        self, system: str | None = None, **options: Unpack[ChatOptions]
    ) -> Conversation:
        """A conversation that keeps its history.

        Args:
            system: What the model is told before the first message.
            **options: Those of every reply. Unless said otherwise, `truncation` is "oldest_turns".
        """
        return Conversation(self._calls, system, options)

    def generate(self, prompt: Content, **options: Unpack[GenerateOptions]) -> Reply:
        """What follows a raw prompt.

        Args:
            prompt: A text, or a list of texts and images. No chat template is put around it.
            **options: See `GenerateOptions`.
        """
        return run(self._calls.generate(prompt, options))

    def stream_generate(self, prompt: Content, **options: Unpack[GenerateOptions]) -> ReplyStream:
        """What follows a raw prompt, as events while it is generated."""
        return ReplyStream(self._calls.generate_events(prompt, options))

    def retrieve(self, prompt: Content, **options: Unpack[RetrieveOptions]) -> Retrieval:
        """The images that [RET] after this context brings, best first.

        Args:
            prompt: A text, or a list of texts and images.
            **options: See `RetrieveOptions`.
        """
        return run(self._calls.retrieve(prompt, options))

    def score(self, prompt: Content, **options: Unpack[ScoreOptions]) -> tuple[Score, ...]:
        """How likely texts are.

        Args:
            prompt: The context: a text, or a list of texts and images.
            **options: See `ScoreOptions`.

        Returns:
            One score for each of `candidates`, in their order; without them, one of the prompt.
        """
        return run(self._calls.score(prompt, options))

    def upload(self, image: OwnImage | str) -> Upload:
        """Hands the server an image, to be named in later requests while it is kept.

        Args:
            image: A path or URL, bytes, a PIL image, a numpy array or a `Picture`.
        """
        return run(self._calls.upload(image))

    def image(self, image: ImageRef | str, *, size: int | None = None) -> bytes:
        """An image's bytes.

        Args:
            image: An image of a reply, or its URL.
            size: Asks for a thumbnail of about that many pixels on its longer side.
        """
        return run(self._calls.image(image, size))

    def absolute(self, url: str) -> str:
        """A URL of a reply, with the server's address in front where it is relative to it."""
        return absolute(url, self.base_url)

    def models(self) -> tuple[ModelInfo, ...]:
        """The models that the server runs."""
        return run(self._calls.models())

    def collections(self) -> tuple[CollectionInfo, ...]:
        """The collections that can be searched."""
        return run(self._calls.collections())

    def collection(self, name: str) -> Collection:
        """The images of one collection, to be listed, added and deleted. Asks nothing yet."""
        return Collection(CollectionCalls(self._calls, name))

    def create_collection(self, name: str) -> Collection:
        """A new, empty collection.

        Args:
            name: Up to 64 letters, digits and `. _ -`, beginning with a letter or digit.
        """
        run(CollectionCalls(self._calls, name).create())
        return self.collection(name)

    def health(self) -> None:
        """Returns while the server's process can do its work, ready or not; else raises."""
        run(self._calls.health())

    def ready(self) -> None:
        """Returns where requests are served; else raises `NotReady`, which says what is loaded."""
        run(self._calls.ready())

    def wait_until_ready(
        self, within: float = 600, progress: Callable[[str], None] | None = None
    ) -> None:
        """Returns once requests are served, also by a server that does not listen yet.

        Args:
            within: Seconds after which `TimedOut` is raised.
            progress: Called with each new word on what the server is doing.

        Raises:
            Unreachable: The server was there, and is gone.
            ServerFailure: The server can't become ready.
        """
        run(self._calls.wait_until_ready(within, progress))
