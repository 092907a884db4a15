"""Who runs in the next step: first come, first served."""

from collections import deque
from dataclasses import dataclass, field

from fromage_server.engine.errors import DuplicateRequest, QueueFull
from fromage_server.engine.sequence import Job, ScoringJob, Sequence


@dataclass
class Plan:
    """One step: prompts to prefill, prompts to score, sequences to decode by one token."""

    prefill: list[Sequence] = field(default_factory=list)
    score: list[ScoringJob] = field(default_factory=list)
    decode: list[Sequence] = field(default_factory=list)

    @property
    def is_empty(self) -> bool:
        return not (self.prefill or self.score or self.decode)


class Scheduler:
    """Not thread-safe: the engine guards it.

    Every step decodes all running sequences and starts as many waiting requests as slots are free
    and ``prefill_tokens`` prompt tokens allow (one at least), so long prompts hold the others' next
    token up one at a time. Requests that generate nothing need no slot and wait for none.
    """

    def __init__(self, max_batch: int, max_queue: int, prefill_tokens: int) -> None:
        self._max_batch = max_batch
        self._max_queue = max_queue
        self._prefill_tokens = prefill_tokens
        self._waiting: deque[Job] = deque()
        self._running: list[Sequence] = []
        # Started, without a slot, and over within their step.
        self._passing: list[Job] = []

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def running(self) -> int:
        return len(self._running)

    @property
    def is_idle(self) -> bool:
        return not (self._waiting or self._running)

    def add(self, job: Job) -> None:
        if any(job.id == other.id for other in self._all()):
            raise DuplicateRequest(job.id)
        # As many as slots are free leave the queue with the coming steps: they do not wait.
        free_slots = self._max_batch - len(self._running)
        if len(self._waiting) >= self._max_queue + free_slots:
            raise QueueFull(self._max_queue)
        self._waiting.append(job)

    def cancel(self, request_id: str) -> None:
        """Takes effect with the next ``take_cancelled``; an unknown id is none of our business."""
        for job in self._all():
            if job.id == request_id:
                job.cancelled = True

    def take_cancelled(self) -> list[Job]:
        """Remove and return what was cancelled since the last step."""
        cancelled = [job for job in self._all() if job.cancelled]
        for job in cancelled:
            self.remove(job)
        return cancelled

    def schedule(self) -> Plan:
        plan = Plan(decode=list(self._running))
        budget = self._prefill_tokens
        blocked: deque[Job] = deque()
        while self._waiting and budget > 0:
            job = self._waiting.popleft()
            if job.needs_slot and len(self._running) >= self._max_batch:
                blocked.append(job)
                continue
            budget -= job.prompt_tokens
            self._start(job, plan)
        self._waiting.extendleft(reversed(blocked))
        return plan

    def remove(self, job: Job) -> None:
        """Forget a job that has ended, wherever it is."""
        if job in self._waiting:
            self._waiting.remove(job)
        if job in self._running:
            self._running.remove(job)
        if job in self._passing:
            self._passing.remove(job)

    def drain(self) -> list[Job]:
        """Remove and return everything."""
        jobs = self._all()
        self._waiting.clear()
        self._running.clear()
        self._passing.clear()
        return jobs

    def _start(self, job: Job, plan: Plan) -> None:
        job.start()
        if isinstance(job, Sequence) and job.needs_slot:
            self._running.append(job)
        else:
            self._passing.append(job)
        if isinstance(job, ScoringJob):
            plan.score.append(job)
        elif isinstance(job, Sequence):
            plan.prefill.append(job)

    def _all(self) -> list[Job]:
        return [*self._running, *self._passing, *self._waiting]
