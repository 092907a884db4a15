"""A message in a bundle's chat template: texts, and images between them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import Literal, Protocol, TypeVar

Image = TypeVar("Image")


class ChatTemplate(Protocol):
    """What a bundle says about turning messages into text."""

    @property
    def system(self) -> str: ...
    @property
    def user(self) -> str: ...
    @property
    def assistant(self) -> str: ...
    @property
    def image(self) -> str: ...
    @property
    def image_position(self) -> Literal["before", "inline"]: ...


Role = Literal["system", "user", "assistant"]


def message_items(
    template: ChatTemplate, role: Role, content: Sequence[str | Image]
) -> list[str | Image]:
    """One message's items, each of which is tokenised on its own; whatever is no text in
    ``content`` is an image.

    "inline": images stand where they are in the content, and neighbouring texts are one item.
    "before": images come first, as in training on captions, then the whole text as one item.
    """
    before, _, after = {
        "system": template.system,
        "user": template.user,
        "assistant": template.assistant,
    }[role].partition("{content}")
    if template.image_position == "before":
        images = [item for item in content if not isinstance(item, str)]
        text = "".join(item for item in content if isinstance(item, str))
        return [*_with_frames(images, template.image), before + text + after]
    return _merged([before, *_with_frames(content, template.image), after])


def _with_frames(items: Iterable[str | Image], frame: str) -> Iterator[str | Image]:
    before, _, after = frame.partition("{image}")
    for item in items:
        framed = (item,) if isinstance(item, str) else (before, item, after)
        yield from (piece for piece in framed if not isinstance(piece, str) or piece)


def _merged(items: Sequence[str | Image]) -> list[str | Image]:
    merged: list[str | Image] = []
    for is_text, run in groupby(items, lambda item: isinstance(item, str)):
        if not is_text:
            merged.extend(run)
        elif text := "".join(item for item in run if isinstance(item, str)):
            merged.append(text)
    return merged
