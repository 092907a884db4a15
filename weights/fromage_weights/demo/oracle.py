"""The gate between the LM and the mappers: what the LM makes of slots filled with (noisy) words.

No picture is involved. What it cannot answer here, no mapping can make it answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fromage_weights.demo.answers import counts_right, ground_right, names_right, words_of
from fromage_weights.demo.corpus import USER
from fromage_weights.demo.grammar import SLOT_LENGTH, slot
from fromage_weights.demo.language_model import SlotNoise
from fromage_weights.demo.protocols import Queries, Query, draw_pool
from fromage_weights.demo.stream import marks_of, slot_positions
from fromage_weights.demo.vocabulary import slot_word_ids
from fromage_weights.evaluation.decoding import greedy
from fromage_weights.language import input_embedding, weight_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class SlotOracle:
    """Asks the LM about slots; `level` is the largest noise (0.33: cosine down to 0.25)."""

    def __init__(
        self, lm: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, *, level: float, count: int
    ) -> None:
        self._lm, self._tokenizer, self._count = lm, tokenizer, count
        self._marks = marks_of(tokenizer)
        (self._newline,) = tokenizer("\n", add_special_tokens=False).input_ids
        self._table = weight_of(input_embedding(lm)).detach()
        words = self._table[slot_word_ids(tokenizer)]
        self._noise = SlotNoise(words, level, torch.Generator().manual_seed(0))
        self._queries = Queries("validation", draw_pool("validation", 5000))

    def _prompt(self, query: Query) -> Tensor:
        assert query.upload is not None
        text = USER.format(content=f"{slot(query.upload)} {query.turns[0].question}")
        ids = torch.tensor(self._tokenizer(text).input_ids)
        slots = slot_positions(ids.numpy(), self._marks, SLOT_LENGTH)
        return self._noise(self._table[ids][None], torch.from_numpy(slots)[None])[0]

    def answers(self, queries: Sequence[Query]) -> list[str]:
        prompts = [self._prompt(query) for query in queries]
        rows = greedy(self._lm, prompts, stop={self._newline}, max_tokens=24)
        return [str(self._tokenizer.decode(row)) for row in rows]

    def report(self) -> dict[str, float]:
        """Share of right answers per kind of question."""
        n, made = self._count, self._queries
        what, pairs = made.descriptions(n, made.single), made.descriptions(n, made.pair)
        yes, no = made.existence(n, present=True), made.existence(n, present=False)
        said = [(q.upload, words_of(a)) for q, a in zip(what, self.answers(what), strict=True)]
        both = [(q.upload, words_of(a)) for q, a in zip(pairs, self.answers(pairs), strict=True)]
        return {
            "object": sum(names_right(s, w) for s, w in said if s) / n,
            "count": sum(counts_right(s, w) for s, w in said if s) / n,
            "background": sum(ground_right(s, w) for s, w in said if s) / n,
            "pair": sum(names_right(s, w) for s, w in both if s) / n,
            "yes": sum("yes" in words_of(a) for a in self.answers(yes)) / n,
            "no": sum("no" in words_of(a) for a in self.answers(no)) / n,
        }
