"""The client: one method per request of the server."""

import base64
import hashlib
import itertools
import json
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, TypeVar, Unpack

from .errors import NotFound, StreamInterrupted, UnexpectedAnswer
from .events import Event, MessageEnd, parse_event
from .messages import Content, Upload, content_type, encode_content, encode_message
from .options import ChatOptions, GenerateOptions, RetrieveOptions, ScoreOptions
from .reply import CollectionInfo, ImageRef, ModelInfo, Reply, Retrieval, Score, record
from .sse import SSEParser
from .transport import Transport

Result = TypeVar("Result")
Messages = Sequence[Mapping[str, Any]]
_SOON_S = 60


class Client:
    """Talks to one server. Safe to share between threads; close it, or use it in a `with`.

    `timeout` is in seconds and counts silence, not the whole answer: a stream's keep-alives
    reset it. A request refused with 429 or 503 and a Retry-After is sent again up to `retries`
    times.
    """

    def __init__(
        self, base_url: str = "http://127.0.0.1:8000", *, timeout: float = 300, retries: int = 3
    ) -> None:
        self.base_url = base_url.rstrip("/")
        self._transport = Transport(self.base_url, timeout=timeout, retries=retries)
        self._held: dict[str, Upload] = {}

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._transport.close()

    def chat(self, messages: Messages, **options: Unpack[ChatOptions]) -> Reply:
        """The reply to a conversation. A message is `{"role", "content"}`, see `messages`."""
        return self._post("/v1/chat", lambda: self._chat_body(messages, options), Reply.from_json)

    def stream(
        self, messages: Messages, **options: Unpack[ChatOptions]
    ) -> Generator[Event, None, None]:
        """The same reply as events. Closing the generator stops it on the server too."""
        return self._events("/v1/chat", lambda: self._chat_body(messages, options))

    def generate(self, prompt: Content, **options: Unpack[GenerateOptions]) -> Reply:
        """What follows an interleaved prompt; no chat template."""
        return self._post(
            "/v1/generate", lambda: self._prompt_body(prompt, options), Reply.from_json
        )

    def stream_generate(
        self, prompt: Content, **options: Unpack[GenerateOptions]
    ) -> Generator[Event, None, None]:
        """The same as events. Closing the generator stops it on the server too."""
        return self._events("/v1/generate", lambda: self._prompt_body(prompt, options))

    def retrieve(self, prompt: Content, **options: Unpack[RetrieveOptions]) -> Retrieval:
        """The images that [RET] after this context brings, best first."""
        return self._post(
            "/v1/retrieve", lambda: self._prompt_body(prompt, options), Retrieval.from_json
        )

    def score(self, prompt: Content, **options: Unpack[ScoreOptions]) -> tuple[Score, ...]:
        """Log-likelihoods of `candidates` after the prompt; without them, of the prompt itself."""
        return self._post(
            "/v1/score",
            lambda: self._prompt_body(prompt, options),
            lambda data: tuple(record(Score, row) for row in data["scores"]),
        )

    def upload(self, image: Path | bytes) -> Upload:
        """Hands the server an image to be named in later requests."""
        data = image if isinstance(image, bytes) else image.read_bytes()
        headers = {"content-type": content_type(data)}
        answer = self._transport.read("POST", "/v1/uploads", content=data, headers=headers)
        return _parsed(answer, lambda body: record(Upload, body))

    def _upload_once(self, data: bytes) -> Upload:
        """A history is sent again every turn; its large images are not."""
        digest = hashlib.sha256(data).hexdigest()
        held = self._held.get(digest)
        if held is None or held.expires_at < time.time() + _SOON_S:
            held = self._held[digest] = self.upload(data)
        return held

    def _fresh(self, send: Callable[[], Result]) -> Result:
        """Sends again where the server has dropped an upload before its time."""
        try:
            return send()
        except NotFound as error:
            if error.code != "upload_not_found" or not self._held:
                raise
            self._held.clear()
            return send()

    def image(self, image: ImageRef | str, *, size: int | None = None) -> bytes:
        """An image's bytes, by reference or URL; `size` asks for a thumbnail (longest edge)."""
        url = image.url if isinstance(image, ImageRef) else image
        if url.startswith("data:"):
            return base64.b64decode(url.partition(",")[2])
        params = None if size is None else {"size": size}
        return self._transport.read("GET", self.absolute(url), params=params)

    def absolute(self, url: str) -> str:
        """A URL of a reply, with this server's address in front where it is relative to it."""
        return self.base_url + url if url.startswith("/") else url

    def models(self) -> tuple[ModelInfo, ...]:
        return self._list("/v1/models", "data", ModelInfo)

    def collections(self) -> tuple[CollectionInfo, ...]:
        return self._list("/v1/collections", "collections", CollectionInfo)

    def health(self) -> None:
        """Returns while the server's process lives, whatever it is doing."""
        self._transport.read("GET", "/healthz", retry=False)

    def ready(self) -> None:
        """Returns once requests are served; until then raises Overloaded with the progress."""
        self._transport.read("GET", "/readyz", retry=False)

    def _chat_body(self, messages: Messages, options: ChatOptions) -> dict[str, Any]:
        return {"messages": [encode_message(m, self._upload_once) for m in messages], **options}

    def _prompt_body(
        self, prompt: Content, options: GenerateOptions | RetrieveOptions | ScoreOptions
    ) -> dict[str, Any]:
        return {"prompt": encode_content(prompt, self._upload_once), **options}

    def _list(self, path: str, key: str, kind: type[Result]) -> tuple[Result, ...]:
        body = self._transport.read("GET", path)
        return _parsed(body, lambda data: tuple(record(kind, row) for row in data[key]))

    def _post(
        self, path: str, body: Callable[[], dict[str, Any]], read: Callable[[Any], Result]
    ) -> Result:
        answer = self._fresh(lambda: self._transport.read("POST", path, json=body()))
        return _parsed(answer, read)

    def _events(
        self, path: str, body: Callable[[], dict[str, Any]]
    ) -> Generator[Event, None, None]:
        parser = SSEParser()

        def begin() -> tuple[Generator[bytes, None, None], bytes]:
            chunks = self._transport.chunks("POST", path, json={**body(), "stream": True})
            return chunks, next(chunks, b"")

        chunks, first = self._fresh(begin)
        with closing(chunks):
            for chunk in itertools.chain((first,), chunks):
                for frame in parser.feed(chunk):
                    event = parse_event(frame)
                    if event is not None:
                        yield event
                    if isinstance(event, MessageEnd):
                        return
        raise StreamInterrupted("the stream ended before the reply did")


def _parsed(body: bytes, read: Callable[[Any], Result]) -> Result:
    try:
        return read(json.loads(body))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        start = body[:80].decode(errors="replace")
        raise UnexpectedAnswer(f"not an answer of a FROMAGe server: {start!r}") from error
