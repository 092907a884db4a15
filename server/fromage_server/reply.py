"""A reply as events, and the same reply as one object."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

Json = dict[str, Any]


@dataclass(frozen=True)
class MessageStart:
    id: str
    model: str


@dataclass(frozen=True)
class TextDelta:
    index: int
    text: str


@dataclass(frozen=True)
class ImageShown:
    index: int
    part: Json


@dataclass(frozen=True)
class MessageEnd:
    """``ending``: finish_reason, usage, timings and, where asked for, token_ids and logprobs."""

    ending: Json


ReplyEvent = MessageStart | TextDelta | ImageShown | MessageEnd


class Reply(Protocol):
    """A reply in the making. ``cancel`` must be called when nobody reads on; after the end it does
    nothing."""

    def events(self) -> AsyncIterator[ReplyEvent]: ...
    def cancel(self) -> None: ...


class ContentBuilder:
    """Gives every content part its index: text goes on until an image ends it."""

    def __init__(self) -> None:
        self._parts = 0
        self._in_text = False
        self.images = 0

    def text(self, text: str) -> Iterator[TextDelta]:
        """Nothing for an empty text."""
        if not text:
            return
        if not self._in_text:
            self._parts += 1
            self._in_text = True
        yield TextDelta(self._parts - 1, text)

    def end_text(self) -> None:
        """The next text is a part of its own."""
        self._in_text = False

    def image(self, part: Json) -> ImageShown:
        self._in_text = False
        self._parts += 1
        self.images += 1
        return ImageShown(self._parts - 1, part)


def event_data(event: ReplyEvent) -> tuple[str, Json]:
    """The name and the data of the server-sent event."""
    match event:
        case MessageStart(id, model):
            return "message.start", {"id": id, "model": model}
        case TextDelta(index, text):
            return "text.delta", {"index": index, "text": text}
        case ImageShown(index, part):
            return "image", {"index": index, **part}
        case MessageEnd(ending):
            return "message.end", ending


def fold(events: Iterable[ReplyEvent]) -> Json:
    """``id``, ``model``, ``content`` and the ending."""
    content: list[Json] = []
    folded: Json = {}
    for event in events:
        match event:
            case MessageStart(id, model):
                folded = {"id": id, "model": model, "content": content}
            case TextDelta(index, text) if index < len(content):
                content[index]["text"] += text
            case TextDelta(_, text):
                content.append({"type": "text", "text": text})
            case ImageShown(_, part):
                content.append(part)
            case MessageEnd(ending):
                folded |= ending
    return folded


async def whole(reply: Reply) -> Json:
    """The finished reply; it is cancelled when its reader is."""
    try:
        return fold([event async for event in reply.events()])
    finally:
        reply.cancel()
