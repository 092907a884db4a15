"""Packed token blocks of generated text, seeded and resumable."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from fromage_weights.demo.corpus import LESSONS, document
from fromage_weights.demo.hardware import Hardware

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_DOCUMENTS_PER_CHUNK = 2_000
_ENDLESS = 1 << 40
QUESTION_WEIGHT = 0.15
# An answer's first words say whether a picture is shown, refused or not what this is about; all
# that follows is easy. So many of them count so much.
DECIDING, DECISION_WEIGHT = 3, 3.0
# Token ids and their loss weights.
Row: TypeAlias = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Marks:
    """The token ids that structure a document."""

    end_of_text: int
    question: int
    answer: int
    colon: int
    slot_open: tuple[int, ...]


def marks_of(tokenizer: PreTrainedTokenizerBase) -> Marks:
    def one(text: str) -> int:
        (token,) = tokenizer(text, add_special_tokens=False).input_ids
        return int(token)

    # Every token that ends in the slot's bracket: " (", but also "?(" after a question.
    opens = tuple(sorted(i for token, i in tokenizer.get_vocab().items() if token.endswith("(")))
    end = tokenizer.eos_token_id
    assert isinstance(end, int)
    return Marks(end, one("Q"), one("A"), one(":"), opens)


def slot_positions(ids: np.ndarray, marks: Marks, length: int) -> np.ndarray:
    """Boolean, like `ids` (…, T): where an upload's slot words stand."""
    slots = np.zeros(ids.shape, dtype=bool)
    opened = np.isin(ids, marks.slot_open)
    for offset in range(1, length + 1):
        slots[..., offset:] |= opened[..., :-offset]
    return slots


def loss_weights(ids: np.ndarray, marks: Marks) -> np.ndarray:
    """Per token (T,) of a stream: 1 for answers and captions, more for how an answer begins, less
    for questions, 0 for what is random by design (slot words)."""
    heads = ids[:-1]
    is_head = ids[1:] == marks.colon
    step = np.zeros(len(ids), dtype=np.int32)
    step[:-1] += (heads == marks.question) & is_head
    step[2:] -= ((heads == marks.answer) & is_head)[:-1]
    weights = np.where(np.cumsum(step) > 0, QUESTION_WEIGHT, 1.0).astype(np.float32)
    begins = np.flatnonzero((heads == marks.answer) & is_head) + 2
    for place in (begins[:, None] + np.arange(DECIDING)).flatten():
        weights[place : place + 1] = DECISION_WEIGHT
    weights[slot_positions(ids, marks, 4)] = 0.0
    return weights


def _maker(read: int, *, long: bool) -> Callable[[np.random.Generator], str]:
    """What writes the documents after the first `read`: the lessons in their order, then all."""
    for lesson in () if long else LESSONS:
        if read < lesson.texts:
            return lesson.make
        read -= lesson.texts
    return partial(document, long=long)


def packed(documents: Sequence[Sequence[int]], size: int) -> list[list[int]]:
    """Rows of up to `size` tokens, made of whole documents (best fit, longest first). Only one
    that is longer than a row loses its end: an answer without its question teaches guessing."""
    rows: list[list[int]] = []
    rooms: list[tuple[int, int]] = []  # what is left in a row, its number; in order
    for text in sorted(documents, key=len, reverse=True):
        place = bisect_left(rooms, (len(text), -1))
        if place < len(rooms):
            room, row = rooms.pop(place)
        else:
            room, row = size, len(rows)
            rows.append([])
        rows[row] += text[:room]
        insort(rooms, (room - len(text[:room]), row))
    return rows


class TextStream:
    """Blocks (batch, length + 1) of packed documents; block i is the same in every run. Short
    ones begin with the lessons.

    `seek(i)` continues after i blocks without making them up again.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        *,
        seed: int,
        batch: int,
        length: int,
        long: bool,
        hardware: Hardware | None = None,
    ) -> None:
        self._tokenizer = tokenizer
        self._marks = marks_of(tokenizer)
        self._seed, self._long = seed, long
        self._batch, self._length = batch, length
        self._documents = _DOCUMENTS_PER_CHUNK // (8 if long else 1)
        self._hardware = hardware or Hardware.cpu()
        self.seek(0)

    def seek(self, chunk: int) -> None:
        """Go on with chunk number `chunk`."""
        self._chunk = chunk
        self._rows: list[Row] = []
        self._chunks: Iterator[list[Row]] | None = None

    def rest(self) -> None:
        """Let helpers go until the next call."""
        self._chunks = None

    @property
    def chunk(self) -> int:
        return self._chunk

    def _rows_of(self, chunk: int) -> list[Row]:
        rng = np.random.default_rng([self._seed, 1 + self._long, chunk])
        make = _maker(chunk * self._documents, long=self._long)
        texts = [make(rng) for _ in range(self._documents)]
        rows = [np.array(row) for row in packed(self._tokenizer(texts).input_ids, self._length + 1)]
        order = rng.permutation(len(rows))
        return [(rows[i], loss_weights(rows[i], self._marks)) for i in order]

    def _grow(self) -> None:
        if self._chunks is None:
            self._chunks = self._hardware.made(self._rows_of, self._chunk, _ENDLESS)
        self._rows += next(self._chunks)
        self._chunk += 1

    def next(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """ids (B, T + 1), loss weights (B, T + 1), slots (B, T + 1)."""
        while len(self._rows) < self._batch:
            self._grow()
        rows, self._rows = self._rows[: self._batch], self._rows[self._batch :]
        ids = np.full((self._batch, self._length + 1), self._marks.end_of_text, dtype=np.int64)
        weights = np.zeros(ids.shape, dtype=np.float32)
        for place, (row, counts) in enumerate(rows):
            ids[place, : len(row)] = row
            weights[place, : len(row)] = counts
        return ids, weights, slot_positions(ids, self._marks, 4)
