"""The events of a streamed reply: start → (text | image)* → tokens* → end."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace

from .errors import UnexpectedAnswer, server_error
from .reply import Ending, ImagePart, Part, Reply, TextPart, TokenLogprob, ending, logprobs
from .sse import Frame


@dataclass(frozen=True)
class MessageStart:
    """The first event: the reply has been taken on."""

    id: str
    model: str


@dataclass(frozen=True)
class TextDelta:
    """More text for the content part at `index`."""

    index: int
    text: str


@dataclass(frozen=True)
class ImageShown:
    """An image is the content part at `index`."""

    index: int
    part: ImagePart


@dataclass(frozen=True, kw_only=True)
class MessageEnd(Ending):
    """The last event of a stream that came to its end."""


@dataclass(frozen=True)
class TokensTold:
    """Some of the token ids or log-probabilities of a reply that has too many for one event; the
    `MessageEnd` that follows has none."""

    token_ids: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()


Event = MessageStart | TextDelta | ImageShown | TokensTold | MessageEnd


def parse_event(frame: Frame, server: str = "") -> Event | None:
    """The event a frame carries, from `server`; None for a name this version doesn't know.

    Raises the typed ServerError of an `error` frame, UnexpectedAnswer where the data is not
    what the frame's name promises.
    """
    try:
        return _parse(frame, server)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UnexpectedAnswer(f"the data of a {frame.event!r} event is malformed") from error


def _parse(frame: Frame, server: str) -> Event | None:
    data = json.loads(frame.data)
    match frame.event:
        case "message.start":
            return MessageStart(data["id"], data["model"])
        case "text.delta":
            return TextDelta(data["index"], data["text"])
        case "image":
            return ImageShown(data["index"], ImagePart.from_json(data, server))
        case "message.tokens":
            return TokensTold(tuple(data.get("token_ids", ())), logprobs(data) or ())
        case "message.end":
            return MessageEnd(**ending(data))
        case "error":
            raise server_error(data)
    return None


class ReplyBuilder:
    """Folds the events of one stream into the reply that the JSON answer would have been.

    `content` holds the parts so far.
    """

    def __init__(self) -> None:
        self.content: list[Part] = []
        self._start: MessageStart | None = None
        self._end: MessageEnd | None = None
        self._token_ids: tuple[int, ...] = ()
        self._logprobs: tuple[TokenLogprob, ...] = ()

    def add(self, event: Event) -> None:
        match event:
            case MessageStart():
                self._start = event
            case TextDelta(index, text):
                self._add_text(index, text)
            case ImageShown(index, part):
                self._append(index, part)
            case TokensTold():
                self._token_ids += event.token_ids
                self._logprobs += event.logprobs
            case MessageEnd():
                self._end = replace(
                    event,
                    token_ids=self._token_ids or event.token_ids,
                    logprobs=self._logprobs or event.logprobs,
                )

    def reply(self) -> Reply:
        """The whole reply. Raises UnexpectedAnswer before the stream's end."""
        if self._start is None or self._end is None:
            raise UnexpectedAnswer("a reply without its start or its end")
        start, parts = vars(self._start), tuple(self.content)
        return Reply(**start, content=parts, **vars(self._end))

    def _add_text(self, index: int, text: str) -> None:
        if index == len(self.content) - 1 and isinstance(last := self.content[-1], TextPart):
            self.content[-1] = TextPart(last.text + text)
        else:
            self._append(index, TextPart(text))

    def _append(self, index: int, part: Part) -> None:
        if index != len(self.content):
            raise UnexpectedAnswer(f"content part {index} came after {len(self.content)} parts")
        self.content.append(part)


def fold(events: Iterable[Event]) -> Reply:
    """The reply that the events of one whole stream add up to."""
    builder = ReplyBuilder()
    for event in events:
        builder.add(event)
    return builder.reply()
