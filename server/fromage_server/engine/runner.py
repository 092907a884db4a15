"""The model's forward pass over a step's packed tokens."""

from __future__ import annotations

from collections.abc import Sequence as Seq
from contextlib import nullcontext
from itertools import accumulate

import torch
from torch import Tensor
from torch.nn import functional

from fromage_server.engine import many_queries, single_queries
from fromage_server.engine.attention import BLOCK_SIZE, Backend, Layout, Paged, Span
from fromage_server.engine.attention_pages import PagesBackend
from fromage_server.engine.attention_runs import RunsBackend
from fromage_server.engine.embedding import Embedder, is_newest
from fromage_server.engine.job import Reads
from fromage_server.engine.kv_cache import KVShape, PagedCache
from fromage_server.engine.landing import Landing, upload
from fromage_server.engine.last_layer import LastLayer
from fromage_server.engine.ranks import DecodePass, Follower, Leader, Pass, Storage
from fromage_server.engine.replays import Replays, kept_of, spans_of
from fromage_server.engine.scheduler import Chunk
from fromage_server.engine.shapes import DecodeShapes, FixedShapes
from fromage_server.engine.step_output import StepOutput, scores_of
from fromage_server.engine.tape import Headless, Tapes
from fromage_weights.grounded import ForwardOutput, GroundedModel


class Runner:
    """Owns the KV storage. Computing a chunk twice is harmless: it writes the same places.

    ``run`` takes the samples of the step before where they have not landed yet: the newest token of
    a sequence is then known to the device alone.
    """

    def __init__(
        self,
        model: GroundedModel,
        blocks: int,
        backend: Backend | None = None,
        *,
        fixed: FixedShapes | None = None,
        decode: DecodeShapes | None = None,
        ranks: Leader | Follower | None = None,
    ) -> None:
        """``decode`` needs a backend of pages, and is recorded on a GPU. ``ranks``: every pass is
        made together with other processes."""
        self._model = model
        self._ranks = ranks
        self._fixed = fixed
        shape = KVShape.of(model.lm, model.dtype, model.device.type)
        backend = backend or _backend_for(model.device, whole=fixed is not None)
        self._cache = PagedCache(shape, blocks + 1, model.device, backend)  # one is nobody's
        self._paged = Paged(model.lm, self._cache)
        self._last_layer = LastLayer(model, whole=fixed is not None)
        self._blocks = blocks
        self._embedder = Embedder(model)
        self._replays: Replays | None = None
        if decode is not None:
            parts = (model, self._paged, self._last_layer, self._embedder)
            self._replays = Replays(*parts, decode, spare=blocks, ranks=ranks)
        self._tapes = Tapes(model) if fixed is None and ranks is None and not decode else None
        if isinstance(ranks, Leader):
            of_prompts = (fixed.streams, fixed.piece) if fixed else (0, 0)
            of_graphs = (decode.rows, decode.pages) if decode else (0, 0)
            ranks.begin(Storage(blocks, *of_prompts, *of_graphs))

    @classmethod
    def following(
        cls, model: GroundedModel, follower: Follower, backend: Backend | None = None
    ) -> Runner:
        """As the leader has it."""
        storage = follower.begin()
        return cls(
            model,
            storage.blocks,
            backend,
            fixed=FixedShapes(storage.streams, storage.piece) if storage.streams else None,
            decode=DecodeShapes(storage.rows, storage.pages) if storage.rows else None,
            ranks=follower,
        )

    @property
    def cache_bytes(self) -> int:
        return self._cache.bytes

    def warm_up(self, tokens: int, streams: int) -> None:
        """One pass over so many tokens of nobody's prompt, and all recorded passes."""
        device = self._model.device
        tokens = min(tokens, self._blocks * BLOCK_SIZE)
        # Nobody has blocks yet, and what is written to them is never found.
        span = Span(0, tokens, 0, tuple(range(-(-tokens // BLOCK_SIZE))))
        ids = torch.zeros(tokens, dtype=torch.long, device=device)
        output = self._together(Pass((span,), (tokens - 1,), self._model.embed_ids(ids)))
        self._model.mappers.query_embeddings(output.hidden[0])
        if self._replays is not None:
            self._replays.warm_up()
        if self._tapes is not None and device.type == "cpu":
            self._tapes.record(self._paged, streams, self._blocks)
        self.check_device()

    def run(
        self, chunks: Seq[Chunk], before: Tensor | None = None, *, replay: bool = True
    ) -> list[StepOutput]:
        """In the order of ``chunks``. What a recorded pass brings (``replay``) is gone with the
        next one."""
        if replay and self._replays is not None:
            replayed = self._replays.run(chunks, before)
            if replayed is not None:
                return replayed
        if self._fixed is None:
            return self._forward(chunks, before)
        streams = [chunk for chunk in chunks if is_newest(chunk)]
        outputs = self._forward(streams, before, self._fixed.streams, 1) if streams else []
        for piece in chunks:
            if piece not in streams:
                outputs += self._forward([piece], before, self._fixed.piece)
        return sorted(outputs, key=lambda output: chunks.index(output.chunk))

    def _forward(
        self, chunks: Seq[Chunk], before: Tensor | None, size: int = 0, reads_each: int = 0
    ) -> list[StepOutput]:
        """One pass, filled up to ``size`` tokens, with ``reads_each`` results for each."""
        spans = spans_of(chunks)
        reads = [chunk.job.reads(chunk.start, chunk.stop) for chunk in chunks]
        kept = [
            span.start + position - span.past
            for span, read in zip(spans, reads, strict=True)
            for position in kept_of(read)
        ]
        kept += [0] * (size * reads_each - len(kept))
        embedded = torch.cat(self._embedder.parts(chunks, before))
        if size > len(embedded):
            embedded = functional.pad(embedded, (0, 0, 0, size - len(embedded)))
        output = self._together(Pass(spans, tuple(kept), embedded))
        return self._split(chunks, reads, output)

    def _together(self, step: Pass) -> ForwardOutput | Headless:
        with self._ranks.together(step) if isinstance(self._ranks, Leader) else nullcontext():
            return self.compute(step)

    def follow(self, step: Pass | DecodePass) -> None:
        """The leader's pass, of which it alone needs what comes out."""
        if isinstance(step, Pass):
            self.compute(step)
        else:
            assert self._replays is not None  # the leader has them, too
            self._replays.follow(step)

    def compute(self, step: Pass) -> ForwardOutput | Headless:
        """The pass itself, in this process."""
        device = self._model.device
        positions = upload(step.positions, torch.long, device)
        with self._paged.step(Layout.of(step.spans, device)) as cache:
            if self._tapes is not None and step.is_decode:
                return self._tapes.run(step.embedded, positions, cache)
            with self._last_layer.narrowed(cache, step):
                output = self._model.forward(
                    step.embedded[None],
                    position_ids=positions[None],
                    past_key_values=cache,
                    logits_to_keep=upload(step.kept, torch.long, device),
                    logits=self._tapes is None or self._tapes.head is None,
                )
        return output if self._tapes is None else self._tapes.ended(output)

    def close(self) -> None:
        """No pass comes any more."""
        if isinstance(self._ranks, Leader):
            self._ranks.stop()

    def check_device(self) -> None:
        """Raise where the device itself is lost, as after a failed CUDA kernel, or another
        process that computes along."""
        if isinstance(self._ranks, Leader):
            self._ranks.check()
        if self._model.device.type == "cuda":
            torch.cuda.synchronize(self._model.device)

    def _split(
        self, chunks: Seq[Chunk], reads: Seq[Reads], output: ForwardOutput | Headless
    ) -> list[StepOutput]:
        head = self._tapes.head if self._tapes and isinstance(output, Headless) else None
        results = (output.last if isinstance(output, Headless) else output.logits)[0]
        kept = [kept_of(read) for read in reads]
        starts = [0, *accumulate(len(positions) for positions in kept)]
        asked = [
            start + positions.index(position)
            for start, positions, read in zip(starts, kept, reads, strict=False)
            for position in read.queries
        ]
        landing = Landing(self._queries(output.hidden[0], asked))
        firsts = [0, *accumulate(len(read.queries) for read in reads)]
        outputs = [
            StepOutput(chunk, read, results[start : start + len(read.logits)], landing, first, head)
            for chunk, read, start, first in zip(chunks, reads, starts, firsts, strict=False)
        ]
        for one in outputs:
            one.scores = scores_of(one)
        return outputs

    def _queries(self, hidden: Tensor, rows: list[int]) -> Tensor:
        """(n, L, H) -> (len(rows), E)."""
        mappers = self._model.mappers
        if not rows:
            return torch.empty(0, mappers.shared_dim)
        if self._fixed is not None:
            return torch.cat([mappers.query_embeddings(hidden[row : row + 1]) for row in rows])
        return mappers.query_embeddings(hidden[upload(rows, torch.long, hidden.device)])


def _backend_for(device: torch.device, *, whole: bool) -> Backend:
    if device.type == "cuda":
        return PagesBackend(whole=whole)
    return RunsBackend(whole=whole, kernel=single_queries.kernel(), prompts=many_queries.kernel())
