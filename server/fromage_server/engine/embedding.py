"""The input of a step: what stands at the positions it computes, embedded."""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Sequence as Seq

import torch
from torch import Tensor

from fromage_server.engine.landing import upload
from fromage_server.engine.scheduler import Chunk
from fromage_server.engine.sequence import Sequence
from fromage_weights.grounded import GroundedModel


class Embedder:
    def __init__(self, model: GroundedModel) -> None:
        self._model = model

    def parts(self, chunks: Seq[Chunk], before: Tensor | None) -> list[Tensor]:
        """(n, D) for each chunk; the newest tokens of all streams are looked up together."""
        newest = [newest_of(chunk) for chunk in chunks if is_newest(chunk)]
        looked_up = iter(self._model.embed_ids(self._ids(newest, before)) if newest else ())
        return [
            self._newest_row(chunk, looked_up) if is_newest(chunk) else self._prompt_rows(chunk)
            for chunk in chunks
        ]

    def _newest_row(self, chunk: Chunk, looked_up: Iterator[Tensor]) -> Tensor:
        chunk.job.embedded = None  # a reply that had given way has caught up
        return next(looked_up)[None]

    def _ids(self, newest: Seq[tuple[int | None, int]], before: Tensor | None) -> Tensor:
        """(n,), those that nobody knows yet from the samples of the step before."""
        ids = upload([token or 0 for token, _ in newest], torch.long, self._model.device)
        pending = [i for i, (token, _) in enumerate(newest) if token is None]
        if not pending or before is None:
            return ids
        # -1, where nothing could be sampled: its sequence has failed already.
        rows = upload([newest[i][1] for i in pending], torch.long, before.device)
        ids[upload(pending, torch.long, before.device)] = before[rows].clamp(min=0)
        return ids

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


def is_newest(chunk: Chunk) -> bool:
    """Whether a chunk is one generated token."""
    return chunk.count == 1 and chunk.start >= chunk.job.prompt_tokens


def newest_of(chunk: Chunk) -> tuple[int | None, int]:
    """The token of such a chunk; None while it is pending, with its row among the samples."""
    job = chunk.job
    assert isinstance(job, Sequence)
    place = chunk.start - job.prompt_tokens
    return (job.generated[place] if place < len(job.generated) else None), job.pending_row
