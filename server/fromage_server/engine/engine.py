"""The engine: one thread that owns the model and steps all sequences together."""

import logging
import threading
import time
from collections.abc import Callable
from collections.abc import Sequence as Seq
from dataclasses import replace

import numpy as np
import torch

from fromage_server.engine.admission import check_request
from fromage_server.engine.attention import BLOCK_SIZE, Backend
from fromage_server.engine.blocks import BlockPool
from fromage_server.engine.config import Counts, EngineConfig, EngineStats
from fromage_server.engine.errors import EngineStopped
from fromage_server.engine.events import ErrorEvent, Event, FinishReason, RetEvent
from fromage_server.engine.job import Job
from fromage_server.engine.kv_cache import KVShape
from fromage_server.engine.memory import free_bytes, storage_blocks
from fromage_server.engine.pace import Pace
from fromage_server.engine.request import GenerationRequest, ScoringRequest
from fromage_server.engine.runner import FixedShapes, Runner, StepOutput
from fromage_server.engine.sampling import Sampled, sample
from fromage_server.engine.scheduler import Chunk, Plan, Scheduler
from fromage_server.engine.scoring import ScoringJob
from fromage_server.engine.sequence import Sequence, Vocabulary
from fromage_weights.grounded import GroundedModel

logger = logging.getLogger(__name__)
_PIECE = 64  # of a prompt, where shapes are fixed
_NOT_FINITE = "the model's numbers are not finite for this prompt"


class Engine:
    """``submit`` and ``cancel`` may be called from any thread and never touch the model; events
    arrive in the engine's thread, so a callback must be quick.

    ``step`` is the whole engine without its thread, for callers that drive it themselves.
    """

    def __init__(
        self,
        model: GroundedModel,
        config: EngineConfig | None = None,
        backend: Backend | None = None,
    ) -> None:
        """``backend``: what attends; None for the one of the model's device."""
        config = config or EngineConfig()
        context = min(config.max_context or model.max_context, model.max_context)
        shape = KVShape.of(model.lm, model.dtype)
        free = free_bytes(model.device)
        blocks = storage_blocks(
            shape, model.device.type, free, config.max_batch, context, config.kv_cache_bytes
        )
        # Nobody is promised more than the whole storage can hold.
        self.max_context = min(context, blocks * BLOCK_SIZE)
        self._model = model
        self._vocabulary = Vocabulary(
            model.ret_token_id, model.eos_token_ids, model.tokenizer.decode
        )
        fixed = FixedShapes(config.max_batch, _PIECE) if config.deterministic else None
        self._runner = Runner(model, blocks, backend, fixed)
        self._pool = BlockPool(blocks, BLOCK_SIZE)
        self._pace = Pace(config.prefill_tokens)
        self._scheduler = Scheduler(
            config.max_batch, config.max_queue, self._pool, self._pace, _PIECE if fixed else None
        )
        self._changed = threading.Condition()  # guards the scheduler and the two fields below
        self._stopping = False
        self._end: str | None = None  # why no request is taken any more
        self._running = threading.Lock()  # held by the thread that steps
        self._counts = Counts()
        self._threads = torch.get_num_threads()

    @property
    def alive(self) -> bool:
        """Whether it takes requests: until it is stopped, or has died."""
        return self._end is None

    def start(self) -> None:
        """Step in a thread of its own."""
        threading.Thread(target=self.run, name="fromage-engine", daemon=True).start()

    def run(self) -> None:
        """Step in the calling thread until ``stop``. On a CPU the process's main thread is best:
        OpenMP counts it even where it computes nothing, finds more threads than cores, and lets
        the helpers of any other thread sleep between operations (libgomp, GOMP_SPINCOUNT)."""
        # Other threads of the process may have asked for fewer, for themselves.
        torch.set_num_threads(self._threads)
        with self._running:
            self._loop()

    def stop(self) -> None:
        """End after the current step; what is unfinished gets an ErrorEvent."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        with self._running:
            self._close("the engine was stopped")

    def submit(
        self, request: GenerationRequest | ScoringRequest, on_event: Callable[[Event], None]
    ) -> None:
        """Queue a request. Raises InvalidRequest, PromptTooLong, DuplicateRequest, QueueFull or
        EngineStopped, and then no event comes."""
        prompt_tokens = check_request(request, self._model, self.max_context)
        per_image = self._model.n_visual_tokens
        job: Job
        if isinstance(request, GenerationRequest):
            job = Sequence(request, prompt_tokens, on_event, self._vocabulary, per_image)
        else:
            job = ScoringJob(request, prompt_tokens, on_event, per_image)
        with self._changed:
            if self._end is not None:
                raise EngineStopped(self._end)
            self._scheduler.add(job)
            self._changed.notify()

    def cancel(self, request_id: str) -> None:
        """End a request within one step, with FinishEvent("cancelled"); does nothing where it has
        ended already."""
        with self._changed:
            self._scheduler.cancel(request_id)
            self._changed.notify()

    def stats(self) -> EngineStats:
        with self._changed:
            return EngineStats(
                waiting=self._scheduler.waiting,
                running=self._scheduler.running,
                cache_bytes=self._runner.cache_bytes,
                used_blocks=self._pool.used,
                cached_blocks=len(self._pool.prefixes),
                blocks=self._pool.count,
                counts=replace(self._counts),
            )

    def check_idle(self) -> None:
        """Raise AssertionError where something was left behind; for an engine at rest."""
        with self._changed:
            assert self._scheduler.is_idle, "there are requests in the engine"
            self._pool.check()

    @torch.inference_mode()
    def step(self) -> bool:
        """One step: a token for everybody, and a piece of the newcomers' prompts. False where
        nothing was to do."""
        start = time.perf_counter()
        plan = self._schedule()
        outputs = self._run(plan.chunks)
        sampled = self._sample(outputs)
        self._emit(outputs, sampled)
        self._measure(plan, time.perf_counter() - start)
        return not plan.is_empty

    def _schedule(self) -> Plan:
        with self._changed:
            cancelled = self._scheduler.take_cancelled()
            plan = self._scheduler.schedule()
        for job in cancelled:
            self._end_job(job, job.finish_event("cancelled"))
            self._counts.cancelled += 1
        self._counts.steps += not plan.is_empty
        self._counts.preempted += len(plan.preempted)
        return plan

    def _run(self, chunks: Seq[Chunk]) -> list[StepOutput]:
        """A step that fails is tried again one by one, so that only its cause is lost."""
        if not chunks:
            return []
        try:
            return self._runner.run(chunks)
        except Exception as error:
            self._runner.check_device()
            if len(chunks) > 1:
                return [output for chunk in chunks for output in self._run([chunk])]
            self._fail_all([chunks[0].job], error)
            return []

    def _sample(self, outputs: list[StepOutput]) -> list[Sampled | None]:
        """In the order of ``outputs``: a token, or None where none can be sampled or the job wants
        none."""
        found: list[Sampled | None] = [None] * len(outputs)
        wanting = [
            (i, output, output.chunk.job)
            for i, output in enumerate(outputs)
            if isinstance(output.chunk.job, Sequence) and len(output.logits)
        ]
        if not wanting:
            return found
        try:
            logits = torch.cat([output.logits for _, output, _ in wanting])
            rows = [job.sampling_row() for _, _, job in wanting if isinstance(job, Sequence)]
            sampled = sample(logits, rows, self._model.ret_token_id)
        except Exception as error:
            self._fail_all([job for _, _, job in wanting], error)
            return found
        for (i, _, _), token in zip(wanting, sampled, strict=True):
            found[i] = token
        return found

    def _emit(self, outputs: list[StepOutput], tokens: list[Sampled | None]) -> None:
        for output, token in zip(outputs, tokens, strict=True):
            job = output.chunk.job
            if job.ended:  # its step failed
                continue
            try:
                self._count(output.chunk)
                with self._changed:
                    self._scheduler.advance(output.chunk)
                if isinstance(job, Sequence):
                    self._advance(job, output, token)
                elif isinstance(job, ScoringJob):
                    self._score(job, output)
            except Exception as error:
                self._fail_all([job], error)

    def _advance(self, sequence: Sequence, output: StepOutput, token: Sampled | None) -> None:
        was_open = len(output.reads.logits) > 0
        if (was_open and token is None) or not np.isfinite(output.queries).all():
            self._fail(sequence, _NOT_FINITE)
            return
        self._emit_queries(sequence, output)
        if token is not None:
            self._counts.generated_tokens += 1
            self._send(sequence, sequence.accept(token))
        elif not output.chunk.is_last:
            return
        # A [RET] that has just ended the reply is still to be fed, for its query.
        if sequence.finish_reason is not None and not (was_open and sequence.query_due):
            self._finish(sequence, sequence.finish_reason)

    def _emit_queries(self, sequence: Sequence, output: StepOutput) -> None:
        positions = output.reads.queries
        in_prompt = [p for p in positions if p < sequence.prompt_tokens]
        numbers = sequence.report_prompt_rets(in_prompt)
        for number, place, query in zip(numbers, in_prompt, output.queries, strict=False):
            self._send(sequence, RetEvent(number, place, query, in_prompt=True))
        for position, query in zip(positions, output.queries, strict=True):
            if position >= sequence.prompt_tokens:
                place = position - sequence.prompt_tokens
                self._send(sequence, RetEvent(sequence.rets - 1, place, query, in_prompt=False))

    def _score(self, job: ScoringJob, output: StepOutput) -> None:
        if not np.isfinite(output.queries).all():
            self._fail(job, _NOT_FINITE)
            return
        if output.reads.logits:
            tokens = torch.tensor(job.tokens_at(output.reads.logits), device=output.logits.device)
            losses = torch.nn.functional.cross_entropy(output.logits, tokens, reduction="none")
            if not bool(losses.isfinite().all()):
                self._fail(job, _NOT_FINITE)
                return
            job.logprobs += (-losses).tolist()
        job.queries |= dict(zip(output.reads.queries, output.queries, strict=True))
        if output.chunk.is_last:
            self._send(job, job.event(self._model.mappers.shared_dim))
            self._finish(job, "stop")

    def _count(self, chunk: Chunk) -> None:
        job = chunk.job
        self._counts.prompt_tokens += max(0, min(chunk.stop, job.prompt_tokens) - chunk.start)
        if chunk.start == job.cached_tokens:
            self._counts.cached_tokens += chunk.start

    def _measure(self, plan: Plan, seconds: float) -> None:
        decoding = sum(chunk.count == 1 for chunk in plan.chunks)
        prefilled = sum(chunk.count for chunk in plan.chunks if chunk.count > 1)
        if plan.chunks:
            self._pace.measured(seconds, decoding, prefilled)

    def _finish(self, job: Job, reason: FinishReason) -> None:
        self._counts.finished += 1
        self._end_job(job, job.finish_event(reason))

    def _fail_all(self, jobs: Seq[Job], error: Exception) -> None:
        logger.error("the model failed on %s", [job.id for job in jobs], exc_info=error)
        for job in jobs:
            self._fail(job, f"the model failed: {type(error).__name__}: {error}")

    def _fail(self, job: Job, message: str) -> None:
        self._counts.failed += 1
        self._end_job(job, ErrorEvent(message))

    def _end_job(self, job: Job, event: Event) -> None:
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

    def _loop(self) -> None:
        reason = "the engine was stopped"
        try:
            while self._wait_for_work():
                self.step()
        except BaseException as error:
            logger.critical("the engine's thread has died", exc_info=error)
            reason = f"the engine has failed: {type(error).__name__}: {error}"
        self._close(reason)

    def _wait_for_work(self) -> bool:
        with self._changed:
            while not self._stopping and self._scheduler.is_idle:
                self._changed.wait()
            return not self._stopping

    def _close(self, reason: str) -> None:
        with self._changed:
            self._end = self._end or reason
            jobs = self._scheduler.drain()
        for job in jobs:
            try:
                job.on_event(ErrorEvent(self._end))
            except BaseException:  # the others are still waiting to be told
                logger.exception("the caller of %s failed on ErrorEvent", job.id)
