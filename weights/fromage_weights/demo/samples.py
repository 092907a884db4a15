"""Image-text samples: conversations and captions with soft-token slots and [RET]s marked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from fromage_weights.demo import corpus
from fromage_weights.demo.corpus import ASSISTANT, RET, USER, SceneSource
from fromage_weights.demo.dialogue import Turn
from fromage_weights.demo.grammar import SLOT_LENGTH, Wish, describe, random_wish, slot, wish_of
from fromage_weights.demo.stream import Marks, loss_weights, marks_of, slot_positions
from fromage_weights.demo.world import Scene

if TYPE_CHECKING:
    from fromage_weights.tokenizer import FromageTokenizer


@dataclass(frozen=True)
class Draft:
    """A text with its pictures: `uploads` in the order of its slots, `wishes` of its [RET]s."""

    text: str
    uploads: tuple[Scene, ...]
    wishes: tuple[Wish, ...]


def chat_draft(turns: Sequence[Turn]) -> Draft:
    """A conversation as the server writes it: [RET] where a picture was shown."""
    text = ""
    for turn in turns:
        answer = turn.answer + (RET if turn.wish else "")
        text += USER.format(content=turn.question) + ASSISTANT.format(content=answer)
    uploads = tuple(turn.upload for turn in turns if turn.upload)
    return Draft(text, uploads, tuple(turn.wish for turn in turns if turn.wish))


def caption_draft(wish: Wish, rng: np.random.Generator) -> Draft:
    """A plain caption and [RET] (paper, section 3.2)."""
    mark = "." if rng.random() < 0.2 else ""
    return Draft(describe(wish, rng) + mark + RET, (), (wish,))


def random_draft(rng: np.random.Generator, scenes: SceneSource) -> Draft:
    """What the mappers learn from: chats, captions to find, pictures to caption."""
    draw = rng.random()
    if draw < 0.12:
        return caption_draft(random_wish(rng, pairs=0.4, say_all=0.5), rng)
    if draw < 0.2:
        scene = scenes(rng)
        return Draft(f"{slot(scene)} {describe(wish_of(scene), rng)}", (scene,), ())
    parts = 1 if rng.random() < 0.7 else 2
    return chat_draft(corpus.turns(rng, parts, scenes))


@dataclass(frozen=True)
class Batch:
    """Right-padded samples.

    ids, weights (B, T); `slots` (U, 2) row and first position of each slot, for `uploads` (U);
    `rets` (R, 2) row and position of each [RET], for `wishes` (R).
    """

    ids: Tensor
    weights: Tensor
    slots: Tensor
    uploads: list[Scene]
    rets: Tensor
    wishes: list[Wish]

    @property
    def mask(self) -> Tensor:
        return (self.ids >= 0).long()


class Collator:
    """Drafts to batches, tokenised as the server tokenises."""

    def __init__(self, tokenizer: FromageTokenizer, *, longest: int = 192) -> None:
        self._tokenizer = tokenizer
        self._marks: Marks = marks_of(tokenizer.hf)
        self._longest = longest

    def __call__(self, drafts: Sequence[Draft]) -> Batch:
        rows = [np.array(r) for r in self._tokenizer.hf([d.text for d in drafts]).input_ids]
        kept = [(d, r) for d, r in zip(drafts, rows, strict=True) if len(r) <= self._longest]
        width = max((len(row) for _, row in kept), default=1)
        ids = torch.full((len(kept), width), -1, dtype=torch.long)
        weights = torch.zeros(len(kept), width)
        slots, rets = [], []
        for i, (_, row) in enumerate(kept):
            ids[i, : len(row)] = torch.from_numpy(row)
            learnt = loss_weights(row, self._marks) >= 1
            weights[i, : len(row)] = torch.from_numpy(learnt.astype(np.float32))
            starts = np.flatnonzero(slot_positions(row, self._marks, SLOT_LENGTH))[::SLOT_LENGTH]
            slots += [(i, int(start)) for start in starts]
            rets += [(i, int(at)) for at in np.flatnonzero(row == self._tokenizer.ret_token_id)]
        return Batch(
            ids,
            weights,
            torch.tensor(slots, dtype=torch.long).reshape(-1, 2),
            [scene for draft, _ in kept for scene in draft.uploads],
            torch.tensor(rets, dtype=torch.long).reshape(-1, 2),
            [wish for draft, _ in kept for wish in draft.wishes],
        )
