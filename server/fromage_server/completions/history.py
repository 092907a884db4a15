"""From OpenAI's messages to the chat's: an assistant's pictures back in their places."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import Final

from pydantic import ValidationError

from fromage_server.failures import from_validation
from fromage_server.schema.completions import CompletionMessage, CompletionRequest, ShownImage
from fromage_server.schema.options import SEEDS, ChatOptions
from fromage_server.schema.parts import ImagePart, ImageUrlPart, Part, TextPart
from fromage_server.schema.requests import ChatRequest

# No part of it can hold the beginning of another: hostile texts take no longer than their length.
_IMAGE: Final = r'!\[(?:[^\[\]\\\n]|\\.)*\]\((?P<{url}>[^()\s<>"]+)(?:[ ]"[^"\n()]*")?\)'
_URLS: Final = re.compile(_IMAGE.format(url="url"))
# As `Rendering` writes them: a line each, a paragraph for each [RET].
_GROUP: Final = re.compile(
    rf"(?:\n\n)?(?:{_IMAGE.format(url='first')})(?:\n(?:{_IMAGE.format(url='next')}))*(?:\n\n)?"
)
# Between two groups of pictures; what stands together would be one [RET]'s.
_APART: Final = TextPart(text="")


def to_chat(body: CompletionRequest) -> ChatRequest:
    """The same request of POST /v1/chat. Raises ApiError for messages that it doesn't take."""
    values = {name: getattr(body, name) for name in ChatOptions.model_fields}
    values["max_tokens"] = body.max_completion_tokens or body.max_tokens
    if body.seed is not None:
        values["seed"] = body.seed % SEEDS
    if body.top_p == 0:
        values |= {"temperature": 0.0, "top_p": 1.0}
    values["logprobs"] = body.top_logprobs if body.logprobs else None
    values["messages"] = [
        {"role": "system" if message.role == "developer" else message.role, "content": parts}
        for message, parts in ((message, parts_of(message)) for message in body.messages)
    ]
    try:
        return ChatRequest(**values)
    except ValidationError as error:
        found = [{**one, "loc": ("body", *one["loc"])} for one in error.errors()]
        raise from_validation(found, None) from None


def parts_of(message: CompletionMessage) -> list[Part]:
    """Of an assistant's message with the pictures where their [RET]s stood, as far as it says."""
    if message.role != "assistant":
        return message.content
    parts = [part for given in message.content for part in _without_markdown(given)]
    images = message.images
    if any(not isinstance(part, TextPart) for part in parts):
        return _named(parts, images)
    return list(_placed("".join(p.text for p in parts if isinstance(p, TextPart)), images))


def _without_markdown(part: Part) -> Iterator[Part]:
    """A text's markdown images as image parts."""
    if not isinstance(part, TextPart):
        yield part
        return
    end = 0
    for group in _GROUP.finditer(part.text):
        yield TextPart(text=part.text[end : group.start()])
        yield from (_picture(image["url"]) for image in _URLS.finditer(group[0]))
        yield _APART
        end = group.end()
    yield TextPart(text=part.text[end:])


def _named(parts: Sequence[Part], images: Sequence[ShownImage]) -> list[Part]:
    """Pictures that came both ways: the list says which ones they are where addresses don't."""
    if sum(not isinstance(part, TextPart) for part in parts) != len(images):
        return list(parts)
    following = iter(images)
    return [part if isinstance(part, TextPart) else _shown(next(following)) for part in parts]


def _placed(text: str, images: Iterable[ShownImage]) -> Iterator[Part]:
    """The text, cut where pictures stood; at its end where they don't say."""
    end = 0
    for _, group in groupby(images, lambda image: image.fromage.ret_index):
        pictures = list(group)
        offset = pictures[0].fromage.text_offset
        place = len(text) if offset is None else max(end, min(offset, len(text)))
        yield TextPart(text=text[end:place])
        yield from map(_shown, pictures)
        yield _APART
        end = place
    yield TextPart(text=text[end:])


def _shown(image: ShownImage) -> Part:
    ref = image.fromage.ref
    if ref is None:
        return ImageUrlPart(type="image_url", image_url=image.image_url)
    return ImagePart(type="image", image=ref)


def _picture(url: str) -> Part:
    return ImageUrlPart.model_validate({"type": "image_url", "image_url": {"url": url}})
