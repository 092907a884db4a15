"""What a step has brought, told to those who asked."""

import logging
from collections.abc import Sequence as Seq
from dataclasses import dataclass
from threading import Condition

import numpy as np
from numpy.typing import NDArray

from fromage_server.engine.config import Counts
from fromage_server.engine.events import ErrorEvent, Event, FinishReason, RetEvent
from fromage_server.engine.job import Job
from fromage_server.engine.runner import Runner
from fromage_server.engine.sampling import Sampled, Samples
from fromage_server.engine.scheduler import Chunk, Plan, Scheduler
from fromage_server.engine.scoring import ScoringJob
from fromage_server.engine.sequence import Sequence
from fromage_server.engine.step_output import StepOutput
from fromage_weights.grounded import GroundedModel

logger = logging.getLogger(__name__)
_NOT_FINITE = "the model's numbers are not finite for this prompt"


@dataclass(frozen=True)
class Flight:
    """A step that was launched at ``since`` (``time.perf_counter``): its outputs and the tokens
    sampled from them, which may still be on the device."""

    plan: Plan
    outputs: list[StepOutput]
    samples: Samples | None
    since: float

    @classmethod
    def none(cls) -> "Flight":
        return cls(Plan(), [], None, 0.0)


def wanting(outputs: Seq[StepOutput]) -> list[tuple[StepOutput, Sequence]]:
    """Those that a token is sampled for."""
    return [
        (output, output.chunk.job)
        for output in outputs
        if isinstance(output.chunk.job, Sequence) and len(output.results)
    ]


class Delivery:
    """Turns a step's numbers into events, and ends jobs. ``changed`` guards ``scheduler``."""

    def __init__(
        self,
        model: GroundedModel,
        runner: Runner,
        scheduler: Scheduler,
        changed: Condition,
        counts: Counts,
    ) -> None:
        self._model, self._runner, self._scheduler = model, runner, scheduler
        self._changed, self._counts = changed, counts

    def deliver(self, flight: Flight) -> None:
        """Tell everybody what a step has brought; the tokens land in one copy."""
        try:
            landed = iter(flight.samples.land() if flight.samples is not None else ())
        except Exception as error:
            self._runner.check_device()
            self.fail_all([output.chunk.job for output in flight.outputs], error)
            return
        sampled = {id(output) for output, _ in wanting(flight.outputs)} if flight.samples else ()
        for output in flight.outputs:
            token = next(landed) if id(output) in sampled else None
            job = output.chunk.job
            if job.ended:  # its step failed, or it had ended before this pass
                continue
            try:
                self._count(output.chunk)
                with self._changed:
                    self._scheduler.remember(output.chunk)
                if isinstance(job, Sequence):
                    self._advance(job, output, token)
                elif isinstance(job, ScoringJob) and job.computed >= output.chunk.stop:
                    self._score(job, output)  # else it gave way, and begins again
            except Exception as error:
                self.fail_all([job], error)

    def _advance(self, sequence: Sequence, output: StepOutput, token: Sampled | None) -> None:
        closed = sequence.finish_reason is not None  # this pass was for a last [RET]'s query
        open_here = not closed and len(output.reads.logits) > 0
        due = sequence.queries_due(output.reads.queries)
        queries = output.queries(due)
        if (open_here and token is None) or not np.isfinite(queries).all():
            self._fail(sequence, _NOT_FINITE)
            return
        self._emit_queries(sequence, due, queries)
        if open_here and token is not None:
            self._counts.generated_tokens += 1
            self._send(sequence, sequence.accept(token))
        elif not (closed and output.chunk.is_last):
            return
        # A [RET] that has just ended the reply is still to be fed, for its query.
        if sequence.finish_reason is not None and (closed or not sequence.query_due):
            self._finish(sequence, sequence.finish_reason)

    def _emit_queries(
        self, sequence: Sequence, positions: Seq[int], queries: NDArray[np.float32]
    ) -> None:
        in_prompt = [p for p in positions if p < sequence.prompt_tokens]
        numbers = sequence.report_prompt_rets(in_prompt)
        for number, place, query in zip(numbers, in_prompt, queries, strict=False):
            self._send(sequence, RetEvent(number, place, query, in_prompt=True))
        for position, query in zip(positions, queries, strict=True):
            if position >= sequence.prompt_tokens:
                place = position - sequence.prompt_tokens
                self._send(sequence, RetEvent(sequence.rets - 1, place, query, in_prompt=False))

    def _score(self, job: ScoringJob, output: StepOutput) -> None:
        queries = output.queries(output.reads.queries)
        if not np.isfinite(queries).all():
            self._fail(job, _NOT_FINITE)
            return
        logprobs = output.logprobs()
        if not np.isfinite(logprobs).all():
            self._fail(job, _NOT_FINITE)
            return
        job.logprobs += logprobs
        job.queries |= dict(zip(output.reads.queries, queries, strict=True))
        if output.chunk.is_last:
            self._send(job, job.event(self._model.mappers.shared_dim))
            self._finish(job, "stop")

    def _count(self, chunk: Chunk) -> None:
        job = chunk.job
        self._counts.prompt_tokens += max(0, min(chunk.stop, job.prompt_tokens) - chunk.start)
        if chunk.start == job.cached_tokens and not job.counted:
            self._counts.cached_tokens += chunk.start
        job.counted = True  # begun again, it may find the same beginning

    def _finish(self, job: Job, reason: FinishReason) -> None:
        self._counts.finished += 1
        self.end(job, job.finish_event(reason))

    def end_cancelled(self, jobs: Seq[Job]) -> None:
        for job in jobs:
            self._counts.cancelled += 1
            self.end(job, job.finish_event("cancelled"))

    def fail_all(self, jobs: Seq[Job], error: Exception) -> None:
        logger.error("the model failed on %s", [job.id for job in jobs], exc_info=error)
        for job in jobs:
            self._fail(job, f"the model failed: {type(error).__name__}: {error}")

    def _fail(self, job: Job, message: str) -> None:
        if job.ended:  # a pass too many, of a reply that is over
            return
        self._counts.failed += 1
        self.end(job, ErrorEvent(message))

    def end(self, job: Job, event: Event) -> None:
        with self._changed:
            self._scheduler.remove(job, forget=isinstance(event, ErrorEvent))
        self._send(job, event)
        job.ended = True

    def _send(self, job: Job, event: Event) -> None:
        """A caller that cannot take its events loses its request, and nobody else's."""
        try:
            job.on_event(event)
        except Exception:
            logger.exception("the caller of %s failed on %s", job.id, type(event).__name__)
            job.cancelled = True
