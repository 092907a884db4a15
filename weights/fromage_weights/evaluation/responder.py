"""Many chats at once through a loaded bundle: what the server would answer, in batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fromage_weights.chat import Role, message_items
from fromage_weights.errors import UnsupportedModel
from fromage_weights.evaluation.decoding import greedy_to_ret
from fromage_weights.evaluation.queries import caption_queries, check_length
from fromage_weights.evaluation.threads import side_by_side
from fromage_weights.grounded import ImageSegment, Segment, TextSegment

if TYPE_CHECKING:
    from fromage_weights.evaluation.memory import Memory
    from fromage_weights.loading import LoadedBundle

_BATCH = 128
# As many chats as hold the keys and values of 64 in a model of the paper's size (32 layers, 4,096
# wide); where what was read is kept for the next turn, there are up to three copies of it.
_KEPT, _COPIES = 64 * 32 * 4096, 3


@dataclass(frozen=True)
class Message:
    """One message of a chat; a user's `features` (Dv,) stand before the words."""

    role: Role
    text: str
    features: Tensor | None = None


@dataclass(frozen=True)
class Reply:
    """`text` without [RET]; `query` (E,) the unit vector of its first [RET], None without one."""

    text: str
    query: Tensor | None


class Responder:
    """Greedy replies of a bundle's model, up to the first [RET] or the end of the answer: one of
    the token ids ``ends``."""

    def __init__(self, loaded: LoadedBundle, *, max_tokens: int = 60) -> None:
        self._model, self._template = loaded.model, loaded.bundle.config.chat_template
        self._tokenizer = loaded.model.tokenizer
        self._max_tokens = max_tokens
        lm = loaded.model.lm.config.get_text_config()
        self._room = _KEPT // (lm.num_hidden_layers * lm.hidden_size)
        stops = {self._end(text) for text in loaded.bundle.config.stop}
        self.ends = stops | set(self._model.eos_token_ids)

    def _end(self, text: str) -> int:
        """The token of a stop string. Encoded alone, some tokenizers put a space in front."""
        ids = self._tokenizer.encode(text)
        if len(ids) != 1 and self._tokenizer.decode(ids[-1:]) != text:
            raise UnsupportedModel(
                f"the stop string {text!r} is {len(ids)} tokens; evaluation in a chat knows those "
                "of one token only"
            )
        return ids[-1]

    def segments(self, messages: Sequence[Message]) -> list[Segment]:
        """A chat in the bundle's template, tokenised item by item, as the server does."""
        items: list[str | Tensor] = []
        for message in messages:
            shown = [] if message.features is None else [message.features]
            items += message_items(self._template, message.role, [*shown, message.text])
        texts = [item if isinstance(item, str) else None for item in items]
        encoded = self._tokenizer.encode_prompt(texts)
        segments: list[Segment] = []
        for ids, item in zip(encoded, items, strict=True):
            if isinstance(item, Tensor):
                segments.append(ImageSegment(item))
            elif ids:
                segments.append(TextSegment(ids))
        return segments

    def talks(self, asked: Sequence[Sequence[Message]]) -> list[list[Reply]]:
        """The replies to each chat's messages of the user, one after another, the model's own
        replies between them. What it has read and written of a chat is not read again."""
        lengths = [sum(len(message.text) for message in messages) for messages in asked]
        order = sorted(range(len(lengths)), key=lengths.__getitem__)
        copies = _COPIES if max(map(len, asked), default=1) > 1 else 1
        room = max(1, self._room // copies)
        batch = min(room, _BATCH)
        parts = [order[at : at + batch] for at in range(0, len(order), batch)]
        at_once = room // batch if self._model.device.type == "cpu" else 1
        found: dict[int, list[Reply]] = {}
        for part, made in side_by_side(
            lambda part: self._talk([asked[i] for i in part]), parts, at_once
        ):
            found.update(zip(part, made, strict=True))
        return [found[i] for i in range(len(asked))]

    def _talk(self, asked: Sequence[Sequence[Message]]) -> list[list[Reply]]:
        chats: list[list[Message]] = [[] for _ in asked]
        given: list[list[Reply]] = [[] for _ in asked]
        memories: list[Memory | None] = [None] * len(asked)
        last = max(map(len, asked))
        for turn in range(last):
            going = [i for i, messages in enumerate(asked) if turn < len(messages)]
            for i in going:
                chats[i].append(asked[i][turn])
            replies, read = self._answer(
                [chats[i] for i in going], [memories[i] for i in going], remember=turn + 1 < last
            )
            for i, reply, memory in zip(going, replies, read, strict=True):
                given[i].append(reply)
                mark = "" if reply.query is None else self._tokenizer.ret_token
                chats[i].append(Message("assistant", reply.text.strip() + mark))
                memories[i] = memory
        return given

    @torch.inference_mode()
    def _answer(
        self,
        chats: Sequence[Sequence[Message]],
        memories: Sequence[Memory | None],
        *,
        remember: bool,
    ) -> tuple[list[Reply], list[Memory | None]]:
        model = self._model
        prompts = [model.embed(self.segments(chat)) for chat in chats]
        for prompt in prompts:
            check_length(model, len(prompt) + 1, "a chat, with room for a reply,")
        written = greedy_to_ret(
            model,
            prompts,
            stop=self.ends,
            max_tokens=self._max_tokens,
            memories=memories,
            remember=remember,
        )
        queries: dict[int, Tensor] = {}
        if written.states:
            states = torch.stack([*written.states.values()])
            found = model.mappers.query_embeddings(states).float().cpu()
            queries = dict(zip(written.states, found, strict=True))
        replies = []
        for i, ids in enumerate(written.ids):
            said = [t for t in ids if t != model.ret_token_id and t not in self.ends]
            replies.append(Reply(self._tokenizer.decode(said), queries.get(i)))
        return replies, written.memories

    def caption_queries(self, captions: Sequence[str]) -> Tensor:
        """(N, E) for plain captions, [RET] appended (no chat template)."""
        return caption_queries(self._model, captions)
