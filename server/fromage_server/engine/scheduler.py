"""Who runs in the next step, on which blocks: first come, first served."""

from collections import deque
from dataclasses import dataclass, field

from fromage_server.engine.blocks import BlockPool
from fromage_server.engine.errors import DuplicateRequest, QueueFull
from fromage_server.engine.job import Job
from fromage_server.engine.pace import Pace


@dataclass(frozen=True)
class Chunk:
    """The positions from ``start`` to ``stop`` of one job, computed in one step."""

    job: Job
    start: int
    stop: int

    @property
    def count(self) -> int:
        return self.stop - self.start

    @property
    def is_last(self) -> bool:
        return self.stop == self.job.length


@dataclass
class Plan:
    """One step. ``preempted``: sequences that had to give their blocks up for others.
    ``scored_room``: for so many more logits of texts that are scored. Of a large vocabulary a
    thousand rows of logits take gigabytes, and the memory left is for the pass itself."""

    chunks: list[Chunk] = field(default_factory=list)
    preempted: list[Job] = field(default_factory=list)
    scored_room: int = 256

    @property
    def is_empty(self) -> bool:
        return not self.chunks


class Scheduler:
    """Not thread-safe: the engine guards it.

    Every running sequence goes on by one token in every step. What is left of the step's time
    (``pace``) goes to prompts, piece by piece, those that have begun first. A job begins when its
    whole prompt has blocks. Where a reply finds no block to grow into, the youngest sequence gives
    its own up and begins again later; most of its states are then still in the prefix cache.
    Requests that generate nothing need no slot and wait for none.
    """

    def __init__(
        self,
        max_batch: int,
        max_queue: int,
        pool: BlockPool,
        pace: Pace,
        piece: int | None = None,
    ) -> None:
        """``piece``: prompts are cut every so many tokens, and nothing is taken over from earlier
        ones, so that a job's numbers come about in the same way whenever it runs."""
        self.max_batch = max_batch
        self._max_queue = max_queue
        self._pool = pool
        self._pace = pace
        self._piece = piece
        self._waiting: deque[Job] = deque()
        self._running: dict[Job, None] = {}  # those that have blocks, oldest first

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
        free_slots = self.max_batch - self._slots_taken
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
        plan = Plan()
        for job in [job for job in self._running if _is_decoding(job)]:
            if job in self._running and self._grow(job, plan):
                self._plan_chunk(job, job.length, plan)
        prompts = self._prompts()
        streams = sum(job.needs_slot for job in prompts)
        budget = self._pace.prefill_tokens(len(plan.chunks), streams, self._hurried(prompts))
        for job in self._running:
            if job.computed < job.length and budget > 0:
                budget -= self._plan_prefill(job, budget, plan)
        if not plan.preempted:
            self._admit(budget, plan)
        return plan

    def remember(self, chunk: Chunk) -> None:
        """The chunk's states are right; blocks that it filled can be found by others."""
        job, size = chunk.job, self._pool.size
        gave_way = job.computed < chunk.stop
        if self._piece is not None or gave_way:
            return
        while (job.known_blocks + 1) * size <= chunk.stop:
            block, content = job.blocks[job.known_blocks], job.content(job.known_blocks, size)
            job.chain = self._pool.prefixes.put(block, job.chain, content)
            job.known_blocks += 1

    def remove(self, job: Job, *, forget: bool = False) -> None:
        """A job has ended, wherever it is; ``forget`` its states where they are not right."""
        if job in self._waiting:
            self._waiting.remove(job)
        if job in self._running:
            del self._running[job]
            self._release(job, forget=forget)

    def drain(self) -> list[Job]:
        """Remove and return everything."""
        jobs = self._all()
        for job in jobs:
            self.remove(job, forget=True)
        return jobs

    def _prompts(self) -> list[Job]:
        """Whose prompts are being computed or could be, in the order in which they come: not where
        slots or blocks lack."""
        found = [job for job in self._running if job.computed < job.length]
        slots, free = self.max_batch - self._slots_taken, self._pool.free - len(self._running)
        for job in self._waiting:
            slots, free = slots - job.needs_slot, free - self._pool.blocks_for(job.length)
            if free < 0:  # perhaps it needs fewer
                free += self._pool.held(self._known(job))
            if slots < 0 or free < 0:
                break
            found.append(job)
            free -= 1  # one to spare for each that runs, as ``_begin`` wants it
        return found

    def _hurried(self, prompts: list[Job]) -> int:
        """So many tokens the step takes though the streams stall for them, one pause's at most: to
        the end of the first one of ``prompts`` that will be a stream. Those behind it come with the
        next steps: in one with it, its first token would wait for theirs. A prompt that two pauses
        are not enough for hurries only if others wait, what will be no stream only in front of one
        that does, and nothing where prompts are cut anyway."""
        if self._piece is not None:
            return 0
        pause, total = self._pace.pause_tokens, 0
        waiting = sum(job.needs_slot for job in prompts)
        for job in prompts:
            left, whole = self._to_compute(job)
            total += left
            if job.needs_slot:
                return min(total, pause) if waiting > 1 or whole <= 2 * pause else 0
            if total > pause:
                return 0
        return 0

    def _to_compute(self, job: Job) -> tuple[int, int]:
        """How many positions of a prompt are left, and how many there were when it began."""
        if job in self._running:
            return job.length - job.computed, job.length - job.taken_over
        left = job.length - len(self._known(job)) * self._pool.size
        return left, left

    def _known(self, job: Job) -> list[int]:
        """The blocks that hold the beginning of ``job`` already."""
        size = self._pool.size
        reusable = range(max(0, job.reusable) // size)
        return self._pool.match([job.content(i, size) for i in reusable])

    def _admit(self, budget: int, plan: Plan) -> None:
        slots = self.max_batch - self._slots_taken
        for job in list(self._waiting):
            if budget <= 0:
                break
            if job.needs_slot and slots <= 0:
                continue
            if not self._begin(job):  # nobody overtakes a prompt that waits for blocks
                break
            slots -= job.needs_slot
            budget -= self._plan_prefill(job, budget, plan)

    def _begin(self, job: Job) -> bool:
        """Give ``job`` blocks for all its known positions, shared ones where its beginning is
        known; False where there are not enough."""
        pool = self._pool
        found = self._known(job)
        blocks = list(found)
        pool.share(found)
        fresh = pool.blocks_for(job.length) - len(found)
        # A block each for those that run, lest the newcomer is the first to be preempted.
        spare = len(self._running)
        expected = pool.blocks_for(job.most_positions) - len(found)
        if pool.free < fresh + spare or not pool.take(job.id, blocks, fresh, expected):
            pool.give_back(job.id, found)
            return False
        job.start()
        job.blocks, job.computed = blocks, len(found) * pool.size
        job.taken_over = job.computed
        job.known_blocks = len(found)
        job.chain = pool.prefixes.chain_of(found[-1]) if found else job.chain
        if job.cached_tokens is None:
            job.cached_tokens = job.computed
        self._waiting.remove(job)
        self._running[job] = None
        return True

    def _plan_prefill(self, job: Job, budget: int, plan: Plan) -> int:
        stop = min(job.length, job.computed + budget)
        if self._piece is not None:
            in_prompt = job.computed < job.prompt_tokens
            # What a preempted reply had said already comes back token by token, as it was made.
            size = min(self._piece, job.prompt_tokens - job.computed) if in_prompt else 1
            stop = job.computed + size
        elif not job.needs_slot:
            stop = job.cut(job.computed, stop, plan.scored_room)
            plan.scored_room -= len(job.reads(job.computed, stop).logits)
        return self._plan_chunk(job, stop, plan) if stop > job.computed else 0

    def _plan_chunk(self, job: Job, stop: int, plan: Plan) -> int:
        chunk = Chunk(job, job.computed, stop)
        plan.chunks.append(chunk)
        job.computed = stop
        return chunk.count

    def _grow(self, job: Job, plan: Plan) -> bool:
        """Make sure that ``job`` has a block for its newest position; False where it had to give
        its own up."""
        missing = self._pool.blocks_for(job.length) - len(job.blocks)
        expected = self._pool.blocks_for(job.most_positions) - len(job.blocks)
        while missing > 0 and not self._pool.take(job.id, job.blocks, missing, expected):
            victim = next(other for other in reversed(self._running) if other.blocks)
            self._preempt(victim, plan)
            if victim is job:
                return False
        return True

    def _preempt(self, job: Job, plan: Plan) -> None:
        plan.chunks = [chunk for chunk in plan.chunks if chunk.job is not job]
        plan.preempted.append(job)
        del self._running[job]
        self._release(job)
        self._waiting.appendleft(job)

    def _release(self, job: Job, *, forget: bool = False) -> None:
        self._pool.give_back(job.id, job.blocks, forget=forget)
        job.forget_states()

    @property
    def _slots_taken(self) -> int:
        return sum(job.needs_slot for job in self._running)

    def _all(self) -> list[Job]:
        return [*self._running, *self._waiting]


def _is_decoding(job: Job) -> bool:
    """Whether one position is left, and that one generated."""
    generated = job.length > job.prompt_tokens
    return generated and job.length - job.computed == 1
