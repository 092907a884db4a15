"""What recorded passes (CUDA graphs) have in common: memory, and where their results stay."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class RecordedOutput:
    """``logits`` (S, V) float32 and ``queries`` (S, E), what [RET] would ask for, of every row.
    The next recorded pass, whichever it is, overwrites them."""

    logits: Tensor
    queries: Tensor


class NotRecorded(Exception):
    """The model may ask the device for a number, or memory may lack."""


class Recordings:
    """The memory of all recorded passes of one model, of up to ``rows`` results. No two of them
    run at the same time."""

    def __init__(self, device: torch.device, rows: int) -> None:
        self._device, self._rows = device, rows
        self._output: RecordedOutput | None = None
        self._pool: Any = None

    def record(self, run: Callable[[], RecordedOutput]) -> Callable[[], RecordedOutput]:
        """The same again, in one launch. Raises NotRecorded."""
        current = torch.cuda.current_stream(self._device)
        aside = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        aside.wait_stream(current)
        try:
            with torch.cuda.stream(aside):  # lazy initialisations come first
                run()
        except torch.cuda.OutOfMemoryError as error:  # a graph's memory is its own
            raise NotRecorded(str(error)) from error
        current.wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        try:
            # Other threads of the server may be using the device.
            mode = "thread_local"
            with torch.cuda.graph(graph, pool=self._pool, capture_error_mode=mode):
                output = run()
        except RuntimeError as error:
            torch.cuda.set_stream(current)  # which a capture that cannot end does not see to
            raise NotRecorded(str(error)) from error
        self._pool = self._pool or graph.pool()

        def replay() -> RecordedOutput:
            graph.replay()
            return output

        return replay

    def keep(self, logits: Tensor, queries: Tensor) -> RecordedOutput:
        """Results in the buffers that all passes share: a vocabulary's numbers for hundreds of rows
        are too many to keep for each size."""
        if self._output is None:
            self._output = RecordedOutput(
                *(t.new_empty(self._rows, t.shape[1]) for t in (logits, queries))
            )
        kept, size = self._output, len(logits)
        return RecordedOutput(kept.logits[:size].copy_(logits), kept.queries[:size].copy_(queries))
