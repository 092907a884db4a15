"""Captions as the ids that the two passes read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from fromage_weights.chat import ChatTemplate, message_items
from fromage_weights.training.objective import Example

if TYPE_CHECKING:
    from fromage_weights.tokenizer import FromageTokenizer

REQUESTS = (
    ("show me {caption}", "Here it is."),
    ("{caption}", ""),
    ("do you have a picture of {caption}?", "Yes, have a look."),
    ("i would like to see {caption}", "This is {caption}"),
)
QUESTIONS = ("what is this?", "what do you see?", "describe this picture")


class ExampleMaker:
    """From a feature and its caption to an Example; chance comes from the generator given.

    A pair that is dressed as a turn of a chat looks as the server will send one: in the bundle's
    ``template``, whose frame stands around the image of a plain caption, too.
    """

    def __init__(
        self,
        tokenizer: FromageTokenizer,
        *,
        max_length: int,
        dialogue: float,
        template: ChatTemplate,
    ) -> None:
        self._tokenizer, self._dialogue = tokenizer, dialogue
        self._max_length, self._template = max_length, template
        before, _, behind = template.image.partition("{image}")
        # A word is one token with the space before it.
        self._space = " " if behind.endswith(" ") else ""
        self._frame = before, behind.removesuffix(" ")
        self._questions = [self._question(text) for text in QUESTIONS]

    @property
    def longest(self) -> int:
        """Most tokens of an example's texts, without the image's."""
        frame = sum(len(self._tokenizer.encode(part)) for part in self._frame)
        if not self._dialogue:
            return self._max_length + frame
        caption = self._max_length - 2
        request = max(len(self._query(said, "")) for said in REQUESTS) + 2 * caption
        question = max(len(before) + len(behind) for before, behind in self._questions)
        return max(request, question + len(self._answer("")) + caption)

    def __call__(self, features: Tensor, caption: str, rng: np.random.Generator) -> Example:
        if rng.random() < self._dialogue:
            return self._turn(features, caption, rng)
        ret = self._tokenizer.ret_token_id
        words = self._encode(caption + self._tokenizer.ret_token)[:-1][: self._max_length - 1]
        query = (*words, ret)
        if self._frame == ("", ""):
            return Example(features, words, query)
        opening, closing = self._frame
        before, behind = self._around([*([opening] if opening else []), None, closing])
        spaced = self._tokenizer.encode(self._space + caption)[: self._max_length - 1]
        return Example(features, spaced, query, prompt=behind, before=before)

    def _turn(self, features: Tensor, caption: str, rng: np.random.Generator) -> Example:
        short, is_whole = self._short(caption)
        said = REQUESTS[int(rng.integers(len(REQUESTS)))]
        before, behind = self._questions[int(rng.integers(len(QUESTIONS)))]
        answer, query = self._answer(short, is_whole=is_whole), self._query(said, short)
        return Example(features, answer, query, prompt=behind, before=before)

    def _query(self, said: tuple[str, str], caption: str) -> tuple[int, ...]:
        """A request and its reply, up to [RET]."""
        asked, reply = (text.replace("{caption}", caption) for text in said)
        request = message_items(self._template, "user", [asked])
        begun = self._template.assistant.partition("{content}")[0] + reply
        ids = self._tokenizer.encode_prompt([*request, begun.rstrip()])
        return (*(i for one in ids for i in one or ()), self._tokenizer.ret_token_id)

    def _answer(self, caption: str, *, is_whole: bool = True) -> tuple[int, ...]:
        """As it is generated: the caption, and then what ends a reply, if it is ``is_whole``."""
        before, _, behind = self._template.assistant.partition("{content}")
        encode = self._tokenizer.encode
        return (*encode(before + caption), *(encode(behind) if is_whole else ()))

    def _question(self, text: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """What stands before the image, and behind it."""
        items = message_items(self._template, "user", [None, text])
        return self._around(items)

    def _around(self, items: Sequence[str | None]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Ids of the items before the image, which is None, and of those behind it."""
        ids = self._tokenizer.encode_prompt(items)
        place = ids.index(None)
        before, behind = ids[:place], ids[place + 1 :]
        return _flat(before), _flat(behind)

    def _short(self, caption: str) -> tuple[str, bool]:
        """At most ``max_length`` - 2 tokens of it, whole words where it has several, and whether
        that is all of it."""
        encode, decode = self._tokenizer.encode, self._tokenizer.decode
        ids = encode(caption)
        room = self._max_length - 2
        if len(ids) <= room:
            return caption, True
        for count in range(room, 0, -1):
            begun = decode(ids[:count]).rstrip("\ufffd")  # of a character, some of its bytes
            words = begun.split(" ")
            if len(words) > 1 and words[-1] not in caption.split(" "):
                begun = " ".join(words[:-1])
            # Cut there, it may be other tokens, and more of them.
            if len(encode(begun)) <= room:
                return begun, False
        return "", False

    def _encode(self, text: str) -> tuple[int, ...]:
        """With the begin token, where there is one."""
        (ids,) = self._tokenizer.encode_prompt([text])
        assert ids is not None
        return ids


def _flat(parts: Sequence[tuple[int, ...] | None]) -> tuple[int, ...]:
    return tuple(i for part in parts for i in part or ())
