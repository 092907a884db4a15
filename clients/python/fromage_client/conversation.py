"""Conversations that keep their history."""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar, Unpack

from .calls import Calls
from .errors import NotFound, UnreadableConversation
from .exchange import Body
from .messages import plain_part
from .options import ChatOptions
from .pictures import as_picture, data_url, from_data_url, is_picture
from .reply import Part, Reply, assistant_message
from .streams import AsyncReplyStream, EventReader, ReplyStream
from .wire import run

if TYPE_CHECKING:
    from .messages import ContentPart

Message = dict[str, Any]
Kept = TypeVar("Kept", bound="History")
Answered = TypeVar("Answered")
_FORMAT: Final = {"format": "fromage-conversation", "version": 1}
_LOST: Final = re.compile(r"messages\.(\d+)\.content\.(\d+)\.")
_DEFAULTS: Final[Mapping[str, Any]] = {"truncation": "oldest_turns"}


@dataclass(frozen=True)
class LeftOut:
    """A picture that is no longer part of a conversation: the JSON of its part, the turn in which
    it stood (0 the first), and what the server said of it."""

    turn: int
    part: Mapping[str, Any]
    error: NotFound


class History:
    """`messages` and `options` of a conversation; a turn is a question and what came back.

    A question is in the history from the moment there is something of an answer: one that came to
    an error, or was left before the first word, leaves no trace.

    A picture of an earlier message that the server has no longer (it was deleted from its
    collection, the collection was dropped, an `Upload` expired) is taken out of the history, and
    told in `left_out`. Without one that the new question itself is about there is no answer:
    NotFound is raised.
    """

    def __init__(self, calls: Calls, system: str | None, options: ChatOptions) -> None:
        self._calls = calls
        self.messages: list[Message] = []
        """What goes with the next question. The images of one's own in it are `bytes`."""
        self.options: dict[str, Any] = {**_DEFAULTS, **options}
        self.left_out: tuple[LeftOut, ...] = ()
        """The pictures that were taken out of the history, in the order in which it was noticed."""
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
        self.messages, self.options, self.left_out = messages, options, ()
        return self

    async def _send(
        self, base: list[Message], content: Sequence[ContentPart], options: Mapping[str, Any]
    ) -> Reply:
        asked = [*base, await self._question(content)]
        said = {**self.options, **options}
        reply = await self._answered(asked, lambda sent: self._calls.chat(sent, said))
        self._keep(asked, reply.content)
        return reply

    def _reader(self, content: Sequence[ContentPart], options: Mapping[str, Any]) -> EventReader:
        streamed = {**self.options, **options, "stream": True}
        asked: list[Message] = []

        def opened(sent: list[Message]) -> Awaitable[Body]:
            return self._calls.open(lambda: self._calls.chat_request(sent, streamed))

        async def begin() -> Body:
            asked.extend([*self.messages, await self._question(content)])
            return await self._answered(asked, opened)

        return EventReader(begin, self._calls.base_url, lambda parts: self._keep(asked, parts))

    async def _answered(
        self, asked: list[Message], send: Callable[[list[Message]], Awaitable[Answered]]
    ) -> Answered:
        """What comes back, without those pictures in `asked` that are left out on the way."""
        while True:
            sent = [message for message in asked[:-1] if _says_something(message)]
            try:
                return await send([*sent, asked[-1]])
            except NotFound as error:
                lost = _named(sent, error.param or "")
                if lost is None:
                    raise
                self._leave_out(asked, *lost, error)

    def _leave_out(
        self, asked: list[Message], message: Message, part: Mapping[str, Any], error: NotFound
    ) -> None:
        kept = [one for one in message["content"] if one is not part]
        before = list(takewhile(lambda one: one is not message, asked))
        asked_before = sum(one["role"] == "user" for one in before)
        turn = asked_before if message["role"] == "user" else max(0, asked_before - 1)
        self.left_out = (*self.left_out, LeftOut(turn, part, error))
        for history in (asked, self.messages):
            history[:] = [{**one, "content": kept} if one is message else one for one in history]

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


def _named(sent: list[Message], param: str) -> tuple[Message, Mapping[str, Any]] | None:
    """The message, and the part that only names a picture, of which an error speaks. Bytes are no
    such part: they are here, and it is the server that has no room for them."""
    found = _LOST.match(param)
    if found is None:
        return None
    try:
        message = sent[int(found[1])]
        part = message["content"][int(found[2])]
    except IndexError:
        return None  # it is the question, or nothing that was sent
    return (message, part) if isinstance(part, Mapping) else None


def _says_something(message: Message) -> bool:
    """A question whose only picture was left out does not."""
    content = message["content"]
    return isinstance(content, str) or any(
        isinstance(part, bytes) or part.get("type") != "text" or part["text"] for part in content
    )


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
