"""From messages or parts to the model's input: text items and image slots."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby
from typing import TYPE_CHECKING

from fromage_server.schema.parts import ImagePart, ImageUrlPart, Part, TextPart
from fromage_server.schema.requests import Message
from fromage_weights.chat import ChatTemplate, message_items

if TYPE_CHECKING:
    from fromage_weights.grounded import ImageSegment, Segment

PictureSource = ImageUrlPart | ImagePart


@dataclass(frozen=True)
class Picture:
    """An image slot: where the image comes from, and which field of the request said so."""

    source: PictureSource
    param: str


Item = str | Picture


@dataclass(frozen=True)
class Prompt:
    """The input as token ids per text item; None is an image, in the order of ``pictures``."""

    items: tuple[tuple[int, ...] | None, ...]
    pictures: tuple[Picture, ...]
    n_visual_tokens: int
    dropped_turns: int = 0
    field: str = "prompt"
    """Of the request, for error messages."""

    @property
    def text_ids(self) -> tuple[int, ...]:
        """The text alone, as if no image stood between its items."""
        return tuple(id for item in self.items if item is not None for id in item)

    @property
    def tokens(self) -> int:
        """Positions in the embedded prompt."""
        return sum(self.n_visual_tokens if item is None else len(item) for item in self.items)

    @property
    def has_text_item(self) -> bool:
        return any(item is not None for item in self.items)

    def positions_of(self, token_id: int) -> tuple[int, ...]:
        """Where the token stands in the embedded prompt."""
        found: list[int] = []
        start = 0
        for item in self.items:
            if item is None:
                start += self.n_visual_tokens
            else:
                found.extend(start + i for i, id in enumerate(item) if id == token_id)
                start += len(item)
        return tuple(found)

    def segments(self, images: Sequence[ImageSegment]) -> tuple[Segment, ...]:
        """``images``: one per picture, in order."""
        from fromage_weights.grounded import TextSegment

        following = iter(images)
        return tuple(
            next(following) if item is None else TextSegment(item)
            for item in self.items
            if item is None or item
        )


def render_parts(parts: Sequence[Part], field: str) -> list[Item]:
    """A raw prompt: every text part is an item of its own, every image a slot."""
    return [
        part.text if isinstance(part, TextPart) else Picture(part, f"{field}.{i}")
        for i, part in enumerate(parts)
    ]


def end_in_ret(items: Sequence[Item], ret_token: str) -> list[Item]:
    """The same, with [RET] at its end."""
    head, last = list(items[:-1]), items[-1]
    if not isinstance(last, str):
        return [*head, last, ret_token]
    return [*head, last if last.rstrip().endswith(ret_token) else last + ret_token]


def render_message(
    message: Message, index: int, template: ChatTemplate, ret_token: str
) -> list[Item]:
    """One message by the bundle's template. Later text items are tokenised on their own, so a
    message never shares an item with its neighbours."""
    if message.role == "assistant":
        return message_items(template, "assistant", [assistant_text(message.content, ret_token)])
    content = render_parts(message.content, f"messages.{index}.content")
    return message_items(template, message.role, content)


def assistant_text(parts: Sequence[Part], ret_token: str) -> str:
    """An assistant's images become the [RET] that brought them, one per group."""
    runs = groupby(parts, lambda part: getattr(part, "ret_index", None) if _shows(part) else "text")
    return "".join(
        ret_token if _shows(first := next(run)) else _text([first, *run]) for _, run in runs
    )


def encode(
    items: Sequence[Item],
    encode_prompt: Callable[[Sequence[str | None]], list[tuple[int, ...] | None]],
    n_visual_tokens: int,
) -> Prompt:
    ids = encode_prompt([item if isinstance(item, str) else None for item in items])
    pictures = tuple(item for item in items if isinstance(item, Picture))
    return Prompt(tuple(ids), pictures, n_visual_tokens)


def drop_oldest(roles: Sequence[str], tokens: Sequence[int], limit: int) -> tuple[list[int], int]:
    """Which messages stay, and how many turns had to go for them to fit into ``limit`` tokens.

    ``tokens`` is the length of each message. A turn is a user's message with what follows it up to
    the next one; system messages and the last turn always stay.
    """
    turn_of = list(accumulate(int(role == "user") for role in roles))
    length, dropped = sum(tokens), 0
    while length > limit and dropped < turn_of[-1] - 1:
        dropped += 1
        # What stands in front of the first user's message goes with its turn.
        leaving = {dropped, dropped - 1} if dropped == 1 else {dropped}
        length -= sum(
            size
            for role, turn, size in zip(roles, turn_of, tokens, strict=True)
            if turn in leaving and role != "system"
        )
    kept = [
        i
        for i, (role, turn) in enumerate(zip(roles, turn_of, strict=True))
        if role == "system" or turn > dropped or not dropped
    ]
    return kept, dropped


def _shows(part: Part) -> bool:
    return not isinstance(part, TextPart)


def _text(parts: Sequence[Part]) -> str:
    return "".join(part.text for part in parts if isinstance(part, TextPart))
