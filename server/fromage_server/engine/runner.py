"""The model's forward pass over a step's packed tokens."""

from collections.abc import Sequence as Seq
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from fromage_server.engine.attention import Backend, Layout, Paged, Span
from fromage_server.engine.attention_pages import PagesBackend
from fromage_server.engine.attention_runs import RunsBackend
from fromage_server.engine.job import Reads
from fromage_server.engine.kv_cache import KVShape, PagedCache
from fromage_server.engine.scheduler import Chunk
from fromage_server.engine.sequence import Sequence
from fromage_weights.grounded import GroundedModel


@dataclass
class StepOutput:
    """Of one chunk, in the order of ``reads``: ``logits`` (n, V), and ``queries`` (m, E)."""

    chunk: Chunk
    reads: Reads
    logits: Tensor
    queries: NDArray[np.float32]


@dataclass(frozen=True)
class FixedShapes:
    """Passes that always have as many tokens: ``streams`` of one token each, or one ``piece`` of a
    prompt. A row's numbers then don't depend on what stands beside it."""

    streams: int
    piece: int


class Runner:
    """Owns the KV storage. Computing a chunk twice is harmless: it writes the same places."""

    def __init__(
        self,
        model: GroundedModel,
        blocks: int,
        backend: Backend | None = None,
        fixed: FixedShapes | None = None,
    ) -> None:
        self._model = model
        self._fixed = fixed
        shape = KVShape.of(model.lm, model.dtype)
        backend = backend or _backend_for(model.device, whole=fixed is not None)
        self._cache = PagedCache(shape, blocks, model.device, backend)
        self._paged = Paged(model.lm, self._cache)

    @property
    def cache_bytes(self) -> int:
        return self._cache.bytes

    def run(self, chunks: Seq[Chunk]) -> list[StepOutput]:
        """In the order of ``chunks``."""
        if self._fixed is None:
            return self._forward(chunks)
        streams = [chunk for chunk in chunks if _newest(chunk) is not None]
        pieces = [chunk for chunk in chunks if _newest(chunk) is None]
        outputs = self._forward(streams, self._fixed.streams, 2) if streams else []
        for piece in pieces:
            outputs += self._forward([piece], self._fixed.piece)
        return sorted(outputs, key=lambda output: chunks.index(output.chunk))

    def _forward(self, chunks: Seq[Chunk], size: int = 0, reads_each: int = 0) -> list[StepOutput]:
        """One pass, filled up to ``size`` tokens, with ``reads_each`` results for each."""
        starts = [0, *accumulate(chunk.count for chunk in chunks)]
        reads = [chunk.job.reads(chunk.start, chunk.stop) for chunk in chunks]
        kept = [
            start + position - chunk.start
            for start, chunk, read in zip(starts, chunks, reads, strict=False)
            for position in (*read.logits, *read.queries)
        ]
        kept += [0] * (size * reads_each - len(kept))
        device = self._model.device
        positions = [p for chunk in chunks for p in range(chunk.start, chunk.stop)]
        embedded = self._embedded(chunks)
        missing = max(0, size - len(embedded))
        embedded = functional.pad(embedded, (0, 0, 0, missing))
        with self._paged.step(_layout(chunks, starts, device)) as cache:
            output = self._model.forward(
                embedded[None],  # (1, N, D)
                position_ids=torch.tensor([positions + [0] * missing], device=device),
                past_key_values=cache,
                logits_to_keep=torch.tensor(kept, dtype=torch.long, device=device),
            )
        return self._split(chunks, reads, output.logits[0], output.hidden[0])

    def check_device(self) -> None:
        """Raise where the device itself is lost, as after a failed CUDA kernel."""
        if self._model.device.type == "cuda":
            torch.cuda.synchronize(self._model.device)

    def _embedded(self, chunks: Seq[Chunk]) -> Tensor:
        """(N, D); the newest tokens of all streams are looked up together."""
        fed = [_newest(chunk) for chunk in chunks]
        looked_up = iter(
            self._model.embed_ids(torch.tensor([t for t in fed if t is not None], dtype=torch.long))
        )
        rows = [
            self._prompt_rows(chunk) if token is None else next(looked_up)[None]
            for chunk, token in zip(chunks, fed, strict=True)
        ]
        return torch.cat(rows)

    def _prompt_rows(self, chunk: Chunk) -> Tensor:
        job = chunk.job
        if job.embedded is None:
            job.embedded = self._model.embed(job.segments)
            if isinstance(job, Sequence) and job.generated:  # it was preempted
                again = self._model.embed_ids(torch.tensor(job.generated))
                job.embedded = torch.cat([job.embedded, again])
        rows = job.embedded[chunk.start : chunk.stop]
        if chunk.is_last:
            job.embedded = None
        return rows

    def _split(
        self, chunks: Seq[Chunk], reads: Seq[Reads], logits: Tensor, hidden: Tensor
    ) -> list[StepOutput]:
        asked: list[int] = []
        parts: list[tuple[int, int]] = []
        row = 0
        for read in reads:
            parts.append((row, row + len(read.logits)))
            row += len(read.logits)
            asked += range(row, row + len(read.queries))
            row += len(read.queries)
        queries = self._queries(hidden, asked)
        ends = [0, *accumulate(len(read.queries) for read in reads)]
        return [
            StepOutput(chunk, read, logits[first:last], queries[ends[i] : ends[i + 1]])
            for i, (chunk, read, (first, last)) in enumerate(zip(chunks, reads, parts, strict=True))
        ]

    def _queries(self, hidden: Tensor, rows: list[int]) -> NDArray[np.float32]:
        """(n, L, H) -> (len(rows), E)."""
        mappers = self._model.mappers
        if not rows:
            return np.empty((0, mappers.shared_dim), dtype=np.float32)
        if self._fixed is not None:
            one_by_one = [mappers.query_embeddings(hidden[row : row + 1]) for row in rows]
            return torch.cat(one_by_one).cpu().numpy()
        found: NDArray[np.float32] = mappers.query_embeddings(hidden[rows]).cpu().numpy()
        return found


def _backend_for(device: torch.device, *, whole: bool) -> Backend:
    if device.type == "cuda":
        return PagesBackend(num_splits=1 if whole else None)
    return RunsBackend(whole=whole)


def _newest(chunk: Chunk) -> int | None:
    """The token of a chunk that is one generated token."""
    job = chunk.job
    if isinstance(job, Sequence) and chunk.count == 1 and chunk.start >= job.prompt_tokens:
        return job.generated[chunk.start - job.prompt_tokens]
    return None


def _layout(chunks: Seq[Chunk], starts: Seq[int], device: torch.device) -> Layout:
    spans = (
        Span(start, start + chunk.count, chunk.start, tuple(chunk.job.blocks))
        for start, chunk in zip(starts, chunks, strict=False)
    )
    return Layout(tuple(spans), device)
