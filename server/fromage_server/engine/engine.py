"""The engine: one thread that owns the model and steps all sequences together."""

import logging
import threading
import time
from collections.abc import Callable
from collections.abc import Sequence as Seq
from dataclasses import replace

import torch

from fromage_server.engine.admission import check_request
from fromage_server.engine.attention import BLOCK_SIZE, Backend
from fromage_server.engine.blocks import BlockPool
from fromage_server.engine.config import Counts, EngineConfig, EngineStats
from fromage_server.engine.delivery import Delivery, Flight, wanting
from fromage_server.engine.errors import EngineStopped
from fromage_server.engine.events import ErrorEvent, Event
from fromage_server.engine.job import Job
from fromage_server.engine.kv_cache import KVShape
from fromage_server.engine.landing import current
from fromage_server.engine.memory import free_bytes, storage_blocks
from fromage_server.engine.pace import Pace
from fromage_server.engine.ranks import Leader
from fromage_server.engine.request import GenerationRequest, ScoringRequest
from fromage_server.engine.runner import Runner
from fromage_server.engine.sampling import Samples
from fromage_server.engine.scheduler import Chunk, Plan, Scheduler
from fromage_server.engine.scoring import ScoringJob
from fromage_server.engine.sequence import Sequence, Vocabulary
from fromage_server.engine.shapes import DecodeShapes, FixedShapes
from fromage_server.engine.step_output import StepOutput, samples_of
from fromage_weights.grounded import GroundedModel

logger = logging.getLogger(__name__)
_PIECE = 64  # of a prompt, where shapes are fixed
_LAST_STEP = 5.0  # seconds


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
        *,
        ahead: bool | None = None,
        graphs: bool | None = None,
        leader: Leader | None = None,
    ) -> None:
        """What is None is as the model's device needs it. ``backend``: what attends. ``ahead``: a
        step is launched before the tokens of the one before have come back. ``graphs``: steps run
        through Replays. ``leader``: the model is divided among processes, and this is the one that
        leads them."""
        config = config or EngineConfig()
        context = min(config.max_context or model.max_context, model.max_context)
        shape = KVShape.of(model.lm, model.dtype, model.device.type)
        free = free_bytes(model.device)
        if leader is not None:
            free = leader.least_free(free)
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
        on_gpu = model.device.type == "cuda"
        decode = None
        if fixed is None and (on_gpu if graphs is None else graphs):
            decode = DecodeShapes.of(config, self.max_context, model.device.type)
        self._runner = Runner(model, blocks, backend, fixed=fixed, decode=decode, ranks=leader)
        self._ahead = on_gpu if ahead is None else ahead
        self._flight = Flight.none()  # launched, and nobody has been told yet
        self._landed = 0.0  # when the last step came back
        self._pool = BlockPool(blocks, BLOCK_SIZE, neighbours=not on_gpu)
        self._pace = Pace(config.step_tokens(model.device.type))
        self._scheduler = Scheduler(
            config.max_batch, config.max_queue, self._pool, self._pace, _PIECE if fixed else None
        )
        self._changed = threading.Condition()  # guards the scheduler and the two fields below
        self._stopping = False
        self._end: str | None = None  # why no request is taken any more
        self._running = threading.Lock()  # held by the thread that steps
        self._counts = Counts()
        self._delivery = Delivery(model, self._runner, self._scheduler, self._changed, self._counts)
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
            self._runner.close()

    def fail(self, reason: str) -> None:
        """End at once, for a reason that comes from outside. A step that has not ended soon waits
        for what will not come: its jobs are told without it."""
        logger.critical("%s", reason)
        with self._changed:
            self._stopping = True
            self._end = self._end or reason
            self._changed.notify()
        ended = self._running.acquire(timeout=_LAST_STEP)
        try:
            self._close(reason)
        finally:
            if ended:
                self._running.release()

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
            assert not self._flight.outputs, "a step has not been told to anybody"
            self._pool.check()

    @torch.inference_mode()
    def warm_up(self, tokens: int | None = None) -> None:
        """Run what will be run, for the first time: kernels are chosen, compiled and recorded.
        ``tokens``: of a prompt; None for a whole step's on a GPU, and a block's on a CPU."""
        device = self._model.device
        if tokens is None:
            tokens = self._pace.most if device.type == "cuda" else BLOCK_SIZE
        with current(device):
            self._runner.warm_up(min(tokens, self.max_context), self._scheduler.max_batch)

    @torch.inference_mode()
    def step(self) -> bool:
        """One step: a token for everybody, and a piece of the newcomers' prompts. False where
        nothing was to do. With ``ahead`` the device has the step's work before the one before is
        looked at, and is never idle."""
        with current(self._model.device):
            plan = self._schedule()
            launched = self._launch(plan)
            landing = self._exchange(launched)
            self._delivery.deliver(landing)
            self._measure(landing)
        return bool(plan.chunks or landing.outputs)

    def _schedule(self) -> Plan:
        with self._changed:
            cancelled = self._scheduler.take_cancelled()
        self._delivery.end_cancelled(cancelled)
        with self._changed:
            plan = self._scheduler.schedule()
        self._counts.steps += not plan.is_empty
        self._counts.preempted += len(plan.preempted)
        return plan

    def _launch(self, plan: Plan) -> Flight:
        since = time.perf_counter()
        outputs = self._run(plan.chunks)
        return Flight(plan, outputs, self._sample(outputs), since)

    def _exchange(self, launched: Flight) -> Flight:
        """The step to be told about: this one, or with ``ahead`` the one before."""
        if not self._ahead:
            return launched
        landing, self._flight = self._flight, launched
        return landing

    def _run(self, chunks: Seq[Chunk], *, again: bool = False) -> list[StepOutput]:
        """A step that fails is tried again one by one, so that only its cause is lost."""
        if not chunks:
            return []
        try:
            return self._runner.run(chunks, self._before, replay=not again)
        except Exception as error:
            self._runner.check_device()
            if len(chunks) > 1:
                return [out for chunk in chunks for out in self._run([chunk], again=True)]
            self._delivery.fail_all([chunks[0].job], error)
            return []

    def _sample(self, outputs: list[StepOutput]) -> Samples | None:
        """A token for each output with a sequence's logits, in order."""
        wanted = wanting(outputs)
        if not wanted:
            return None
        try:
            rows = [sequence.sampling_row() for _, sequence in wanted]
            outputs = [output for output, _ in wanted]
            samples = samples_of(outputs, rows, self._model.ret_token_id, self._before)
        except Exception as error:
            self._delivery.fail_all([sequence for _, sequence in wanted], error)
            return None
        for row, (_, sequence) in enumerate(wanted):
            sequence.sampled(row)
        return samples

    @property
    def _before(self) -> torch.Tensor | None:
        """The tokens that have not landed yet."""
        return None if self._flight.samples is None else self._flight.samples.tokens

    def _measure(self, flight: Flight) -> None:
        """A step lasts from its launch, or the landing of the one before, to its own landing."""
        now, plan = time.perf_counter(), flight.plan
        seconds, self._landed = now - max(flight.since, self._landed), now
        decoding = sum(chunk.count == 1 for chunk in plan.chunks)
        prefilled = sum(chunk.count for chunk in plan.chunks if chunk.count > 1)
        if plan.chunks:
            self._pace.measured(seconds, decoding, prefilled)

    def _loop(self) -> None:
        reason = "the engine was stopped"
        try:
            while self._wait_for_work():
                self.step()
        except BaseException as error:
            logger.critical("the engine's thread has died", exc_info=error)
            reason = f"the engine has failed: {type(error).__name__}: {error}"
        self._close(reason)
        self._runner.close()

    def _wait_for_work(self) -> bool:
        with self._changed:
            while not (self._stopping or self._flight.outputs) and self._scheduler.is_idle:
                self._changed.wait()
            return not self._stopping

    def _close(self, reason: str) -> None:
        with self._changed:
            self._end = self._end or reason
            jobs = self._scheduler.drain()
            self._flight = Flight.none()
        for job in jobs:
            job.ended = True
            try:
                job.on_event(ErrorEvent(self._end))
            except BaseException:  # the others are still waiting to be told
                logger.exception("the caller of %s failed on ErrorEvent", job.id)
