"""The engine: one thread that owns the model and steps all sequences together."""

import logging
import threading
from collections.abc import Callable
from collections.abc import Sequence as Seq
from dataclasses import replace

import numpy as np
import torch

from fromage_server.engine.admission import check_request
from fromage_server.engine.config import Counts, EngineConfig, EngineStats
from fromage_server.engine.errors import EngineStopped
from fromage_server.engine.events import ErrorEvent, Event, FinishReason, RetEvent
from fromage_server.engine.kv_cache import LayerStates
from fromage_server.engine.request import GenerationRequest, ScoringRequest
from fromage_server.engine.runner import Runner, StepOutput
from fromage_server.engine.sampling import Sampled, sample
from fromage_server.engine.scheduler import Plan, Scheduler
from fromage_server.engine.sequence import Job, ScoringJob, Sequence, Vocabulary
from fromage_weights.grounded import GroundedModel

logger = logging.getLogger(__name__)
_NOT_FINITE = "the model's numbers are not finite for this prompt"


class Engine:
    """``submit`` and ``cancel`` may be called from any thread and never touch the model; events
    arrive in the engine's thread, so a callback must be quick.

    ``step`` is the whole engine without its thread, for callers that drive it themselves.
    """

    def __init__(self, model: GroundedModel, config: EngineConfig | None = None) -> None:
        config = config or EngineConfig()
        self.max_context = min(config.max_context or model.max_context, model.max_context)
        self._model = model
        self._vocabulary = Vocabulary(
            model.ret_token_id, model.eos_token_ids, model.tokenizer.decode
        )
        self._runner = Runner(model, config.max_batch, self.max_context)
        self._scheduler = Scheduler(config.max_batch, config.max_queue, config.prefill_tokens)
        self._changed = threading.Condition()  # guards the scheduler and the two fields below
        self._stopping = False
        self._end: str | None = None  # why no request is taken any more
        self._thread = threading.Thread(target=self._loop, name="fromage-engine", daemon=True)
        self._counts = Counts()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive() and self._end is None

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End the thread after its current step; what is unfinished gets an ErrorEvent."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join()
        self._close("the engine was stopped")

    def submit(
        self, request: GenerationRequest | ScoringRequest, on_event: Callable[[Event], None]
    ) -> None:
        """Queue a request. Raises InvalidRequest, PromptTooLong, DuplicateRequest, QueueFull or
        EngineStopped, and then no event comes."""
        prompt_tokens = check_request(request, self._model, self.max_context)
        job: Job
        if isinstance(request, GenerationRequest):
            job = Sequence(request, prompt_tokens, on_event, self._vocabulary)
        else:
            job = ScoringJob(request, prompt_tokens, on_event)
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
                counts=replace(self._counts),
            )

    @torch.inference_mode()
    def step(self) -> bool:
        """One step: the newcomers' prompts, and one token for everybody. False where nothing was
        to do."""
        plan = self._schedule()
        outputs = self._run(plan)
        sampled = self._sample(outputs)
        self._emit(outputs, sampled)
        return not plan.is_empty

    def _schedule(self) -> Plan:
        with self._changed:
            cancelled = self._scheduler.take_cancelled()
            plan = self._scheduler.schedule()
        for job in cancelled:
            self._end_job(job, job.finish_event("cancelled"))
            self._counts.cancelled += 1
        self._counts.steps += not plan.is_empty
        return plan

    def _run(self, plan: Plan) -> list[StepOutput]:
        outputs = self._decode(plan.decode)
        outputs += [output for s in plan.prefill if (output := self._prefill(s)) is not None]
        for job in plan.score:
            self._score(job)
        return outputs

    def _sample(self, outputs: list[StepOutput]) -> list[Sampled | None]:
        """In the order of ``outputs``: a token, or None where none can be sampled or the sequence
        has all its tokens already."""
        open_ones = [i for i, o in enumerate(outputs) if o.sequence.finish_reason is None]
        found: list[Sampled | None] = [None] * len(outputs)
        if not open_ones:
            return found
        try:
            logits = torch.stack([outputs[i].logits for i in open_ones])
            rows = [outputs[i].sequence.sampling_row() for i in open_ones]
            sampled = sample(logits, rows, self._model.ret_token_id)
        except Exception as error:
            self._runner.reset()
            self._fail_all([output.sequence for output in outputs], error)
            return found
        for i, token in zip(open_ones, sampled, strict=True):
            found[i] = token
        return found

    def _emit(self, outputs: list[StepOutput], tokens: list[Sampled | None]) -> None:
        for output, token in zip(outputs, tokens, strict=True):
            if output.sequence.ended:  # its step failed
                continue
            try:
                self._advance(output, token)
            except Exception as error:
                self._fail_all([output.sequence], error)

    def _advance(self, output: StepOutput, token: Sampled | None) -> None:
        sequence = output.sequence
        was_open = sequence.finish_reason is None
        if (was_open and token is None) or not np.isfinite(output.queries).all():
            self._fail(sequence, _NOT_FINITE)
            return
        self._emit_queries(output)
        if token is not None:
            self._counts.generated_tokens += 1
            self._send(sequence, sequence.accept(token))
        # A [RET] that has just ended the reply is still to be fed, for its query.
        if sequence.finish_reason is not None and not (was_open and sequence.query_due):
            self._finish(sequence, sequence.finish_reason)
        elif output.states is not None:
            self._join(sequence, output.states)

    def _emit_queries(self, output: StepOutput) -> None:
        sequence = output.sequence
        if sequence.generated:
            for query in output.queries:
                place = len(sequence.generated) - 1
                self._send(sequence, RetEvent(sequence.rets - 1, place, query, in_prompt=False))
        else:
            positions = sequence.request.prompt_ret_positions
            for i, (place, query) in enumerate(zip(positions, output.queries, strict=True)):
                self._send(sequence, RetEvent(i, place, query, in_prompt=True))

    def _prefill(self, sequence: Sequence) -> StepOutput | None:
        self._counts.prompt_tokens += sequence.prompt_tokens
        try:
            return self._runner.prefill(sequence)
        except Exception as error:
            self._fail_all([sequence], error)
            return None

    def _decode(self, sequences: list[Sequence]) -> list[StepOutput]:
        if not sequences:
            return []
        try:
            return self._runner.decode()
        except Exception as error:
            self._runner.reset()
            self._fail_all(sequences, error)
            return []

    def _join(self, sequence: Sequence, states: Seq[LayerStates]) -> None:
        try:
            self._runner.join(sequence, states)
        except Exception as error:  # out of memory, with the storage half moved
            batch = [sequence, *self._runner.batch]
            self._runner.reset()
            self._fail_all(batch, error)

    def _score(self, job: ScoringJob) -> None:
        self._counts.prompt_tokens += job.prompt_tokens
        try:
            event = self._runner.score(job)
        except Exception as error:
            self._fail_all([job], error)
            return
        if np.isfinite(event.logprobs).all() and np.isfinite(event.queries).all():
            self._send(job, event)
            self._finish(job, "stop")
        else:
            self._fail(job, _NOT_FINITE)

    def _finish(self, job: Job, reason: FinishReason) -> None:
        self._counts.finished += 1
        self._end_job(job, job.finish_event(reason))

    def _fail_all(self, jobs: Seq[Job], error: Exception) -> None:
        logger.error("the model failed on %s", [job.id for job in jobs], exc_info=error)
        for job in jobs:
            self._fail(job, f"the model failed: {type(error).__name__}: {error}")
        self._runner.check_device()

    def _fail(self, job: Job, message: str) -> None:
        self._counts.failed += 1
        self._end_job(job, ErrorEvent(message))

    def _end_job(self, job: Job, event: Event) -> None:
        if isinstance(job, Sequence):
            self._runner.leave(job, failed=isinstance(event, ErrorEvent))
        with self._changed:
            self._scheduler.remove(job)
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
