"""Conversations that keep their history."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar, Unpack

from .calls import Calls
from .errors import UnreadableConversation
from .messages import plain_part
from .options import ChatOptions
from .pictures import as_picture, data_url, from_data_url, is_picture
from .reply import Part, Reply, assistant_message
from .streams import AsyncReplyStream, EventReader, ReplyStream
from .wire import Request, run

if TYPE_CHECKING:
    from .messages import ContentPart

Message = dict[str, Any]
Kept = TypeVar("Kept", bound="History")
_FORMAT: Final = {"format": "fromage-conversation", "version": 1}
_DEFAULTS: Final[Mapping[str, Any]] = {"truncation": "oldest_turns"}


class History:
    """`messages` and `options` of a conversation; a turn is a question and what came back.

    A question is in the history from the moment there is something of an answer: one that came to
    an error, or was left before the first word, leaves no trace.
    """

    def __init__(self, calls: Calls, system: str | None, options: ChatOptions) -> None:
        self._calls = calls
        self.messages: list[Message] = []
        """What goes with the next question. The images of one's own in it are `bytes`."""
        self.options: dict[str, Any] = {**_DEFAULTS, **options}
        if system is not None:
            self.messages.append({"role": "system", "content": system})

    @property
    def turns(self) -> int:
        """How many there are."""
        return len(self._questions())

    def undo(self, turns: int = 1) -> None:
        """Takes the last turns back. Raises IndexError where there are not as many."""
        if not 1 <= turns <= self.turns:
            raise IndexError(f"turns: there are {self.turns} to take back, not {turns}")
        self.messages = self._before(-turns)

    def save(self, path: str | Path) -> None:
        """Writes the conversation to a JSON file, with the images that were sent.

        An `Upload` is saved by its id, which expires on the server.
        """
        messages = [_with_images(message, _to_json) for message in self.messages]
        document = {**_FORMAT, "options": self.options, "messages": messages}
        Path(path).write_text(json.dumps(document, indent=1), encoding="utf-8")

    def load(self: Kept, path: str | Path) -> Kept:
        """Goes on with a saved conversation, its messages and options; returns itself.

        Raises OSError, UnreadableConversation.
        """
        try:
            document = json.loads(Path(path).read_text(encoding="utf-8"))
            found = {key: document[key] for key in _FORMAT}
            messages = [_with_images(message, _from_json) for message in document["messages"]]
            options = dict(document["options"])
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UnreadableConversation(f"{path} is not a saved conversation: {error}") from error
        if found != _FORMAT:
            raise UnreadableConversation(f"{path} is {found}, not {_FORMAT}")
        self.messages, self.options = messages, options
        return self

    async def _send(
        self, base: list[Message], content: Sequence[ContentPart], options: Mapping[str, Any]
    ) -> Reply:
        asked = [*base, await self._question(content)]
        reply = await self._calls.chat(asked, {**self.options, **options})
        self._keep(asked, reply.content)
        return reply

    def _reader(self, content: Sequence[ContentPart], options: Mapping[str, Any]) -> EventReader:
        streamed = {**self.options, **options, "stream": True}
        asked: list[Message] = []

        async def build() -> Request:
            if not asked:
                asked.extend([*self.messages, await self._question(content)])
            return await self._calls.chat_request(asked, streamed)

        return self._calls.events(build, lambda parts: self._keep(asked, parts))

    async def _question(self, content: Sequence[ContentPart]) -> Message:
        """Its images are read now: what becomes of the files later does not change the history."""
        return {"role": "user", "content": [await self._kept(part) for part in content]}

    async def _kept(self, part: ContentPart) -> bytes | Message:
        if is_picture(part):
            return await self._calls.intake.read(as_picture(part))
        return plain_part(part)

    def _keep(self, asked: list[Message], content: tuple[Part, ...]) -> None:
        if content:
            self.messages = [*asked, assistant_message(content)]

    def _questions(self) -> list[int]:
        return [at for at, message in enumerate(self.messages) if message["role"] == "user"]

    def _before(self, turn: int) -> list[Message]:
        """What came before a turn, counted as in a list."""
        try:
            return self.messages[: self._questions()[turn]]
        except IndexError:
            raise IndexError(f"turn {turn}: there are {self.turns}") from None


class Conversation(History):
    """A conversation that keeps its history. `client.conversation()` begins one."""

    def send(self, *content: ContentPart, **options: Unpack[ChatOptions]) -> Reply:
        """Says something, texts and images in any order, and returns what comes back.

        `options` hold for this reply only, before those of the conversation.
        """
        return run(self._send(self.messages, content, options))

    def stream(self, *content: ContentPart, **options: Unpack[ChatOptions]) -> ReplyStream:
        """The same as events. What came before a stream was left or broke off is kept."""
        return ReplyStream(self._reader(content, options))

    def edit(self, turn: int, *content: ContentPart, **options: Unpack[ChatOptions]) -> Reply:
        """Says something else in place of the question of a turn (0 the first, -1 the last).

        What came after it is dropped. Raises IndexError for a turn that isn't there.
        """
        return run(self._send(self._before(turn), content, options))


class AsyncConversation(History):
    """A conversation that keeps its history, for asyncio; else as `Conversation`."""

    async def send(self, *content: ContentPart, **options: Unpack[ChatOptions]) -> Reply:
        """Says something, texts and images in any order, and returns what comes back."""
        return await self._send(self.messages, content, options)

    def stream(self, *content: ContentPart, **options: Unpack[ChatOptions]) -> AsyncReplyStream:
        """The same as events. What came before a stream was left or broke off is kept."""
        return AsyncReplyStream(self._reader(content, options))

    async def edit(self, turn: int, *content: ContentPart, **options: Unpack[ChatOptions]) -> Reply:
        """Says something else in place of the question of a turn; what came after is dropped."""
        return await self._send(self._before(turn), content, options)


def _with_images(message: Message, change: Callable[[Any], Any]) -> Message:
    """The message with `change` made to each part of its content."""
    content = message["content"]
    if not isinstance(content, str):
        content = [change(part) for part in content]
    return {"role": message["role"], "content": content}


def _to_json(part: bytes | Message) -> Message:
    if isinstance(part, bytes):
        return {"type": "image_url", "image_url": {"url": data_url(part)}}
    return part


def _from_json(part: Message) -> bytes | Message:
    if part["type"] == "image_url":
        return from_data_url(part["image_url"]["url"])
    return part
