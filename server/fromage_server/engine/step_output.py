"""What a pass has brought for one chunk; most of it is still on its way from the device."""

from collections.abc import Sequence as Seq
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from fromage_server.engine.head import Head
from fromage_server.engine.job import Reads
from fromage_server.engine.landing import Landing, upload
from fromage_server.engine.sampling import Samples, SamplingRow, sample
from fromage_server.engine.scheduler import Chunk
from fromage_server.engine.scoring import ScoringJob


@dataclass
class StepOutput:
    """Of one chunk: ``results`` in the order of ``reads``, still on the device, which are logits
    (n, V), or (n, H) what ``head`` computes them from; the queries of all chunks, of which its own
    begin at ``first``; and what a text is scored by."""

    chunk: Chunk
    reads: Reads
    results: Tensor
    landing: Landing
    first: int
    head: Head | None = None
    scores: Landing | None = None

    def logits(self) -> Tensor:
        """(n, V) float32."""
        return self.results if self.head is None else self.head.logits(self.results)

    def logprobs(self) -> list[float]:
        """Of a scored text's tokens, in the order of ``reads.logits``."""
        if self.scores is None:
            return []
        (found,) = self.scores.wait()
        logprobs: list[float] = found.tolist()
        return logprobs

    def queries(self, positions: Seq[int]) -> NDArray[np.float32]:
        """(m, E), those of ``positions``, which are among ``reads.queries``."""
        if not positions:
            return np.empty((0, 0), dtype=np.float32)
        (found,) = self.landing.wait()
        rows = [self.first + self.reads.queries.index(position) for position in positions]
        queries: NDArray[np.float32] = found[rows].numpy()
        return queries


def samples_of(
    outputs: Seq[StepOutput], rows: Seq[SamplingRow], ret_token_id: int, before: Tensor | None
) -> Samples:
    """A token for each output, which has results for one; see ``sample``."""
    head = outputs[0].head
    if head is None or any(output.head is not head for output in outputs):
        logits = torch.cat([output.logits() for output in outputs])
        return sample(logits, rows, ret_token_id, before)
    states = torch.cat([output.results for output in outputs])
    return head.samples(states, rows, ret_token_id, before)


def scores_of(output: StepOutput) -> Landing | None:
    """How likely the tokens of a text that is scored are."""
    job = output.chunk.job
    if not isinstance(job, ScoringJob) or not output.reads.logits:
        return None
    logits = output.logits()
    tokens = upload(job.tokens_at(output.reads.logits), torch.long, logits.device)
    return Landing(-functional.cross_entropy(logits, tokens, reduction="none"))
