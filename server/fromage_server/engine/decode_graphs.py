"""Passes over one new token per stream, recorded once per batch size and replayed.

Launching a pass kernel by kernel takes the host longer than a GPU needs to compute it. A recorded
pass (CUDA graph) is one launch; in return its inputs stand at fixed addresses, it always has as
many rows as when it was recorded, and what is missing to that is filled up with rows that read and
write a block of their own.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from fromage_server.engine.attention import BLOCK_SIZE, Layout, Paged
from fromage_server.engine.attention_pages import single_tokens
from fromage_server.engine.one_row import OneRow
from fromage_server.engine.ranks import DecodePass, Follower, Leader
from fromage_server.engine.recorded import NotRecorded, RecordedOutput, Recordings
from fromage_server.engine.tape import is_plain
from fromage_weights.grounded import GroundedModel

log = logging.getLogger(__name__)
_TOKEN, _BEFORE, _POSITION, _PLACE, _PAGES = range(5)  # columns of the inputs


@dataclass(frozen=True)
class DecodeRow:
    """A stream's newest token, at ``position``; ``token`` None: row ``before`` of the samples of
    the step before, which nobody but the device knows yet."""

    token: int | None
    before: int
    position: int
    blocks: Sequence[int]


class DecodeGraphs:
    """For up to ``streams`` rows of up to ``pages`` blocks; block ``spare`` is nobody's."""

    def __init__(
        self,
        model: GroundedModel,
        paged: Paged,
        recordings: Recordings,
        *,
        streams: int,
        pages: int,
        spare: int,
        record: bool = True,
        ranks: Leader | Follower | None = None,
    ) -> None:
        """``record`` False: the same passes, launched one operation at a time. ``ranks``: those
        that make every pass together; all of them record the same ones in the same order."""
        self._model, self._paged, self._ranks = model, paged, ranks
        self._streams, self._spare, self._record = streams, spare, record
        self._one_row = OneRow(model) if ranks is None and is_plain(model) else None
        self._is_settled = False
        self._sizes = batch_sizes(streams)
        device = model.device
        self._inputs = torch.zeros(streams, _PAGES, dtype=torch.int32, device=device)
        self._pages = torch.zeros(streams, pages, dtype=torch.int32, device=device)
        self._before = torch.zeros(streams, dtype=torch.long, device=device)
        self._replays: dict[int, Callable[[], RecordedOutput]] = {}
        self._recordings = recordings

    def settle(self) -> None:
        """To come before anything is recorded: the first pass over one row may move weights."""
        if self._one_row is not None and not self._is_settled:
            self._is_settled = True
            self._feed(self._rows([], 1))
            self._pass(1)

    def warm_up(self) -> None:
        """Record all sizes, the largest first: the others then find room in its memory. Where
        nothing is recorded, one pass."""
        gc.collect()  # graphs of another engine must not end while one is recorded
        for size in reversed(self._sizes if self._record else self._sizes[:1]):
            self._together(DecodePass(self._rows([], size), self._before[:0]))

    def run(self, rows: Sequence[DecodeRow], before: Tensor | None) -> RecordedOutput:
        """In the order of ``rows``."""
        size = next(size for size in self._sizes if size >= len(rows))
        known = self._before[:0] if before is None else before
        output = self._together(DecodePass(self._rows(rows, size), known))
        return RecordedOutput(output.logits[: len(rows)], output.queries[: len(rows)])

    def _together(self, step: DecodePass) -> RecordedOutput:
        with self._ranks.together(step) if isinstance(self._ranks, Leader) else nullcontext():
            return self.compute(step)

    def compute(self, step: DecodePass) -> RecordedOutput:
        """The pass itself, in this process."""
        replay = self._replay(len(step.rows))  # recording, if that is still to be done, feeds too
        self._feed(step.rows)
        self._before[: len(step.before)].copy_(step.before)
        return replay()

    def _rows(self, rows: Sequence[DecodeRow], size: int) -> Tensor:
        """(size, columns): what stands in the inputs and, behind it, the pages."""
        nobody = DecodeRow(0, -1, 0, (self._spare,))
        rows = [*rows, *[nobody] * (size - len(rows))]
        widest = max(len(row.blocks) for row in rows)
        # torch gives this memory to nobody else while it is being read (its pinned allocator).
        on_gpu = self._inputs.is_cuda
        staged = torch.empty(size, _PAGES + widest, dtype=torch.int32, pin_memory=on_gpu)
        for line, row in zip(staged.numpy(), rows, strict=True):
            place = row.blocks[row.position // BLOCK_SIZE] * BLOCK_SIZE + row.position % BLOCK_SIZE
            known = row.token is not None
            line[:_PAGES] = (row.token or 0, -1 if known else row.before, row.position, place)
            line[_PAGES : _PAGES + len(row.blocks)] = row.blocks
            line[_PAGES + len(row.blocks) :] = self._spare  # kernels may look at it
        return staged

    def _feed(self, rows: Tensor) -> None:
        size, widest = len(rows), rows.shape[1] - _PAGES
        fed = rows.to(self._inputs.device, non_blocking=True)
        self._inputs[:size].copy_(fed[:, :_PAGES])
        self._pages[:size, :widest].copy_(fed[:, _PAGES:])

    def _replay(self, size: int) -> Callable[[], RecordedOutput]:
        if size not in self._replays:
            self.settle()
            self._replays[size] = self._recorded(size) if self._record else self._live(size)
        return self._replays[size]

    def _live(self, size: int) -> Callable[[], RecordedOutput]:
        return lambda: self._pass(size)

    def _recorded(self, size: int) -> Callable[[], RecordedOutput]:
        """What cannot be recorded (the model may ask the device for a number) runs as it is."""
        self._feed(self._rows([], size))  # what is recorded runs, too: on nobody's block
        failure: NotRecorded | None = None
        replay = run = self._live(size)
        try:
            replay = self._recordings.record(run)
        except NotRecorded as error:
            failure = error
        done = failure is None
        if self._ranks is not None:  # all replay, or none: their sums would not meet
            done = self._ranks.agree(done)
        if done:
            return replay
        log.warning("decode steps are not recorded as CUDA graphs: %s", failure or "on a peer")
        self._record = False
        return run

    def _pass(self, size: int) -> RecordedOutput:
        inputs = self._inputs[:size].long()
        before, position = inputs[:, _BEFORE], inputs[:, _POSITION]
        pending = self._before[before.clamp(min=0)].clamp(min=0)
        tokens = torch.where(before >= 0, pending, inputs[:, _TOKEN])
        layout = Layout(
            (),
            self._model.device,
            inputs[:, _PLACE],
            single_tokens(self._pages[:size], (position + 1).int()),
        )
        with self._paged.step(layout) as cache:
            embedded, positions = self._model.embed_ids(tokens)[None], position[None]
            if size == 1 and self._one_row is not None:
                output = self._one_row(embedded, positions, cache)
            else:
                output = self._model.forward(
                    embedded, position_ids=positions, past_key_values=cache
                )
        queries = self._model.mappers.query_embeddings(output.hidden[0])
        return self._recordings.keep(output.logits[0], queries)


def batch_sizes(streams: int) -> list[int]:
    """The sizes that passes are recorded for: close to each other where padding costs most."""
    ladder = [1, 2, 4, *range(8, 64, 8), *range(64, 256, 16), *range(256, 1025, 64)]
    return [size for size in ladder if size < streams] + [streams]
