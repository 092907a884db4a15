"""Passes with pieces of prompts in them, recorded once per number of tokens and replayed.

As with single tokens (``decode_graphs``) the host would need longer to launch such a pass than a
GPU to compute it. What is recorded takes any step that has no more tokens and sequences than there
is room for, and of each sequence brings the results of one token. What is missing is filled up:
tokens without keys, which are stored in a block of nobody's; sequences without tokens.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from fromage_server.engine.attention import BLOCK_SIZE, Layout, Paged, Span
from fromage_server.engine.attention_pages import any_step, single_tokens
from fromage_server.engine.last_layer import LastLayer
from fromage_server.engine.recorded import NotRecorded, RecordedOutput, Recordings
from fromage_weights.grounded import GroundedModel

log = logging.getLogger(__name__)
_KINDS = 6  # of numbers beside the pages, see Numbers


@dataclass(frozen=True)
class Room:
    """For so many packed tokens of so many sequences of up to ``pages`` blocks."""

    tokens: int
    streams: int
    pages: int

    @property
    def rows(self) -> int:
        """Of the tables: behind the sequences one of padding, and one that never has tokens."""
        return self.streams + 2


@dataclass(frozen=True)
class Numbers:
    """What a pass of ``size`` tokens is fed with, beside embeddings and pages, int32: of each token
    its position and its place in the storage; ``starts`` and ``lengths`` of Tables; of each result
    its token and the sequence that is the token's."""

    positions: Tensor
    places: Tensor
    starts: Tensor
    lengths: Tensor
    kept: Tensor
    owners: Tensor

    @classmethod
    def within(cls, memory: Tensor, size: int, room: Room) -> Numbers:
        """Views of the beginning of ``memory`` (n,), each at an address that suits kernels."""
        wide = _width(size, room)
        lines = memory[: _KINDS * wide].view(_KINDS, wide)
        counts = (size, size, room.rows + 1, room.rows, room.streams, room.streams)
        return cls(*(line[:count] for line, count in zip(lines, counts, strict=True)))


class PromptGraphs:
    """For any step within ``room``, of which one token a sequence is read at most; block ``spare``
    is nobody's."""

    def __init__(
        self,
        model: GroundedModel,
        paged: Paged,
        last_layer: LastLayer,
        recordings: Recordings,
        room: Room,
        *,
        spare: int,
        record: bool = True,
    ) -> None:
        """``record`` False: the same passes, launched one operation at a time."""
        self._model, self._paged, self._last_layer = model, paged, last_layer
        self._recordings, self._room, self._spare = recordings, room, spare
        self._record = record
        self._sizes = token_sizes(room.tokens)
        self._replays: dict[int, Callable[[], RecordedOutput]] = {}
        device, count = model.device, _KINDS * _width(room.tokens, room)
        self._numbers = torch.zeros(count, dtype=torch.int32, device=device)
        self._pages = torch.full((room.rows, room.pages), spare, dtype=torch.int32, device=device)
        width = model.mappers.embed_dim
        self._embedded = torch.zeros(room.tokens, width, dtype=model.dtype, device=device)

    def warm_up(self) -> None:
        """Record all sizes, the largest first: the others then find room in its memory. Where one
        cannot be recorded none is, and no step is taken."""
        gc.collect()  # graphs of another engine must not end while one is recorded
        for size in reversed(self._sizes):
            self._feed((), (), size)
            run = partial(self._pass, size)
            try:
                self._replays[size] = self._recordings.record(run) if self._record else run
            except NotRecorded as error:
                log.warning("steps with prompts are not recorded as CUDA graphs: %s", error)
                self._replays = {}
                return

    def takes(self, spans: Sequence[Span]) -> bool:
        return len(spans) <= self._room.streams and self._size_for(spans) is not None

    def run(
        self, spans: Sequence[Span], kept: Sequence[int], parts: Sequence[Tensor]
    ) -> RecordedOutput:
        """Results of the packed tokens ``kept``, one of each span; ``parts`` are its embedded
        tokens."""
        size = self._size_for(spans)
        assert size is not None
        torch.cat(list(parts), out=self._embedded[: spans[-1].stop])
        self._feed(spans, kept, size)
        output = self._replays[size]()
        return RecordedOutput(output.logits[: len(kept)], output.queries[: len(kept)])

    def _size_for(self, spans: Sequence[Span]) -> int | None:
        """Of the smallest recorded pass that has room for the step's tokens."""
        return min((size for size in self._replays if size >= spans[-1].stop), default=None)

    def _feed(self, spans: Sequence[Span], kept: Sequence[int], size: int) -> None:
        """In one piece of pinned memory, which torch gives to nobody else while it is read."""
        room, wide = self._room, _width(size, self._room)
        pages = len(spans) * room.pages
        pinned = self._numbers.is_cuda
        staged = torch.empty(_KINDS * wide + pages, dtype=torch.int32, pin_memory=pinned)
        numbers, table = staged[: _KINDS * wide], staged[_KINDS * wide :]
        write_numbers(Numbers.within(numbers, size, room), spans, kept, self._spare)
        rows = table.view(len(spans), room.pages).numpy()
        rows[:] = self._spare  # kernels may look behind what is stored
        for row, span in zip(rows, spans, strict=True):
            used = -(-span.length // BLOCK_SIZE)
            row[:used] = span.blocks[:used]
        self._numbers[: len(numbers)].copy_(numbers, non_blocking=True)
        self._pages[: len(spans)].copy_(table.view(len(spans), room.pages), non_blocking=True)

    def _pass(self, size: int) -> RecordedOutput:
        device = self._model.device
        fed = Numbers.within(self._numbers, size, self._room)
        positions, places, kept = fed.positions.long(), fed.places.long(), fed.kept.long()
        # There stands what an earlier step has left, which may not be finite.
        is_padding = places >= self._spare * BLOCK_SIZE
        embedded = self._embedded[:size].masked_fill(is_padding[:, None], 0.0)
        layout = Layout((), device, places, any_step(fed.starts, fed.lengths, self._pages, size))
        pages = self._pages[fed.owners.long()]
        alone = Layout((), device, places[kept], single_tokens(pages, fed.positions[kept] + 1))
        with (
            self._paged.step(layout) as cache,
            self._last_layer.narrowed_to(kept, alone, cache, size),
        ):
            output = self._model.forward(
                embedded[None],
                position_ids=positions[None],
                past_key_values=cache,
                logits_to_keep=kept,
            )
        queries = self._model.mappers.query_embeddings(output.hidden[0])
        return self._recordings.keep(output.logits[0], queries)


def write_numbers(numbers: Numbers, spans: Sequence[Span], kept: Sequence[int], spare: int) -> None:
    """Those of a step; ``numbers`` are on the CPU."""
    count = spans[-1].stop if spans else 0
    positions, places = numbers.positions.numpy(), numbers.places.numpy()
    for span in spans:
        at = np.arange(span.past, span.length)
        blocks = np.array(span.blocks)
        positions[span.start : span.stop] = at
        places[span.start : span.stop] = blocks[at // BLOCK_SIZE] * BLOCK_SIZE + at % BLOCK_SIZE
    padding = np.arange(len(places) - count)
    positions[count:] = 0
    places[count:] = spare * BLOCK_SIZE + padding % BLOCK_SIZE
    starts, lengths = numbers.starts.numpy(), numbers.lengths.numpy()
    starts[: len(spans)] = [span.start for span in spans]
    starts[len(spans)] = count  # of the padding, whose length is 0
    starts[len(spans) + 1 :] = len(places)
    lengths[: len(spans)] = [span.length for span in spans]
    lengths[len(spans) :] = 0
    # What is missing is the first one again: the same numbers at the same place.
    numbers.kept.numpy()[:] = kept[0] if kept else 0
    numbers.kept.numpy()[: len(kept)] = kept
    numbers.owners.numpy()[:] = 0
    numbers.owners.numpy()[: len(kept)] = range(len(kept))


def token_sizes(most: int) -> list[int]:
    """The numbers of tokens that passes are recorded for: close to each other where padding costs
    most."""
    ladder = [*range(64, 512, 64), *range(512, 1024, 128), *range(1024, most, 256)]
    return [size for size in ladder if size < most] + [most]


def _width(size: int, room: Room) -> int:
    """Of the numbers of one kind: 16 bytes each, which kernels like to read at once."""
    return -(-max(size, room.rows + 1) // 4) * 4
