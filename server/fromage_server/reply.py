"""A reply as events, and the same reply as one object."""

from __future__ import annotations

import json
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
    """``logprobs``: where asked for, of the tokens since the last delta, as in the ending."""

    index: int
    text: str
    logprobs: tuple[Json, ...] = ()


@dataclass(frozen=True)
class ImageShown:
    index: int
    part: Json


@dataclass(frozen=True)
class MessageEnd:
    """``ending``: finish_reason, usage, timings and, where asked for, token_ids and logprobs."""

    ending: Json


@dataclass(frozen=True)
class TokensTold:
    """Some of the ending's token_ids and logprobs, where they are too long for one frame."""

    told: Json


ReplyEvent = MessageStart | TextDelta | ImageShown | TokensTold | MessageEnd


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
        case TextDelta(index, text, _):
            return "text.delta", {"index": index, "text": text}
        case ImageShown(index, part):
            return "image", {"index": index, **part}
        case TokensTold(told):
            return "message.tokens", told
        case MessageEnd(ending):
            return "message.end", ending


def in_frames(event: ReplyEvent, limit: int) -> Iterator[ReplyEvent]:
    """The event; an ending whose JSON is longer than ``limit`` bytes comes in parts: its lists of
    token ids and log-probabilities in pieces, then the rest."""
    if not isinstance(event, MessageEnd) or len(json.dumps(event.ending)) <= limit:
        yield event
        return
    rest = dict(event.ending)
    for name in ("token_ids", "logprobs"):
        piece: list[Any] = []
        size = 0
        for item in rest.pop(name, ()):
            size += len(json.dumps(item)) + 2
            if piece and size > limit // 2:
                yield TokensTold({name: piece})
                piece, size = [], len(json.dumps(item)) + 2
            piece.append(item)
        if piece:
            yield TokensTold({name: piece})
    yield MessageEnd(rest)


def fold(events: Iterable[ReplyEvent]) -> Json:
    """``id``, ``model``, ``content`` and the ending."""
    content: list[Json] = []
    folded: Json = {}
    for event in events:
        match event:
            case MessageStart(id, model):
                folded = {"id": id, "model": model, "content": content}
            case TextDelta(index, text, _) if index < len(content):
                content[index]["text"] += text
            case TextDelta(_, text, _):
                content.append({"type": "text", "text": text})
            case ImageShown(_, part):
                content.append(part)
            case TokensTold(told):
                for name, piece in told.items():
                    folded.setdefault(name, []).extend(piece)
            case MessageEnd(ending):
                folded |= ending
    return folded


async def whole(reply: Reply) -> Json:
    """The finished reply; it is cancelled when its reader is."""
    try:
        return fold([event async for event in reply.events()])
    finally:
        reply.cancel()
