"""The gate between the LM and the mappers: what the LM alone makes of requests, and of slots filled
with (noisy) words.

    python -m fromage_weights.demo.oracle DIR

No picture is involved. What it cannot answer here, no mapping can make it answer. Asked are queries
of the validation split.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fromage_weights.demo.answers import (
    announces,
    counts_right,
    ground_right,
    names_right,
    refuses,
    words_of,
)
from fromage_weights.demo.corpus import USER
from fromage_weights.demo.grammar import SLOT_LENGTH, slot
from fromage_weights.demo.protocols import Queries, Query, draw_pool
from fromage_weights.demo.slot_noise import SlotNoise
from fromage_weights.demo.stream import marks_of, slot_positions
from fromage_weights.demo.vocabulary import slot_word_ids
from fromage_weights.evaluation.decoding import greedy
from fromage_weights.language import input_embedding, weight_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class RequestOracle:
    """Whether the LM announces a picture where one is asked for, refuses what the collection lacks,
    and does neither in small talk."""

    def __init__(self, lm: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, count: int) -> None:
        self._lm, self._tokenizer, self._count = lm, tokenizer, count
        self._table = weight_of(input_embedding(lm)).detach()
        (self._newline,) = tokenizer("\n", add_special_tokens=False).input_ids
        self._queries = Queries("validation", draw_pool("validation", 5000))

    def answers(self, queries: Sequence[Query]) -> list[str]:
        texts = [USER.format(content=query.turns[0].question) for query in queries]
        prompts = [self._table[torch.tensor(self._tokenizer(text).input_ids)] for text in texts]
        rows = greedy(self._lm, prompts, stop={self._newline}, max_tokens=40)
        return [str(self._tokenizer.decode(row)) for row in rows]

    def report(self) -> dict[str, float]:
        """Share of right answers per kind of request."""
        made, n = self._queries, self._count
        kinds: dict[str, tuple[list[Query], Callable[[str], bool]]] = {
            "object asked for: announced": (made.object_requests(n), announces),
            "all asked for: announced": (made.full_requests(n), announces),
            "unknown thing: refused": (made.unknown(n), refuses),
            "small talk: no picture": (made.small_talk(n), lambda answer: not announces(answer)),
        }
        return {
            name: sum(map(right, self.answers(queries))) / n
            for name, (queries, right) in kinds.items()
        }


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


def gate(lm: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, count: int = 500) -> list[str]:
    """Both reports as lines, in percent."""
    slots = SlotOracle(lm, tokenizer, level=0.33, count=count).report()
    found = RequestOracle(lm, tokenizer, count).report()
    found |= {f"noisy slot: {name}": share for name, share in slots.items()}
    return [f"{name:<28} {100 * share:5.1f}" for name, share in found.items()]


def main(argv: Sequence[str] | None = None) -> None:
    from transformers import AutoTokenizer

    from fromage_weights.language import load_language_model

    parser = argparse.ArgumentParser(description="what a trained demo language model answers")
    parser.add_argument("directory", type=Path, help="a run's lm, or the bundle's")
    parser.add_argument("--count", type=int, default=500, help="queries of each kind")
    args = parser.parse_args(argv)
    lm = load_language_model(str(args.directory), torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(args.directory)
    print("\n".join(gate(lm, tokenizer, args.count)))


if __name__ == "__main__":
    main()
