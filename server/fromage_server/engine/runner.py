"""The model's forward pass over a step's packed tokens."""

from collections.abc import Sequence as Seq
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fromage_server.engine.attention import Backend, Layout, Paged, Span
from fromage_server.engine.attention_pages import PagesBackend
from fromage_server.engine.attention_runs import RunsBackend
from fromage_server.engine.kv_cache import KVShape, PagedCache
from fromage_server.engine.scheduler import Chunk
from fromage_server.engine.sequence import Reads, Sequence
from fromage_weights.grounded import GroundedModel


@dataclass
class StepOutput:
    """Of one chunk, in the order of ``reads``: ``logits`` (n, V), and ``queries`` (m, E)."""

    chunk: Chunk
    reads: Reads
    logits: Tensor
    queries: NDArray[np.float32]


class Runner:
    """Owns the KV storage. Computing a chunk twice is harmless: it writes the same places."""

    def __init__(self, model: GroundedModel, blocks: int, backend: Backend | None = None) -> None:
        self._model = model
        shape = KVShape.of(model.lm, model.dtype)
        self._cache = PagedCache(shape, blocks, model.device, backend or _backend_for(model.device))
        self._paged = Paged(model.lm, self._cache)

    @property
    def cache_bytes(self) -> int:
        return self._cache.bytes

    def run(self, chunks: Seq[Chunk]) -> list[StepOutput]:
        starts = [0, *accumulate(chunk.count for chunk in chunks)]
        reads = [chunk.job.reads(chunk.start, chunk.stop) for chunk in chunks]
        kept = [
            start + position - chunk.start
            for start, chunk, read in zip(starts, chunks, reads, strict=False)
            for position in (*read.logits, *read.queries)
        ]
        device = self._model.device
        positions = [p for chunk in chunks for p in range(chunk.start, chunk.stop)]
        with self._paged.step(_layout(chunks, starts, device)) as cache:
            output = self._model.forward(
                self._embedded(chunks)[None],  # (1, N, D)
                position_ids=torch.tensor([positions], device=device),
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
        found: NDArray[np.float32] = mappers.query_embeddings(hidden[rows]).cpu().numpy()
        return found


def _backend_for(device: torch.device) -> Backend:
    return PagesBackend() if device.type == "cuda" else RunsBackend()


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
