"""The engine's events, from its thread to the event loop."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from fromage_server.engine.errors import (
    EngineError,
    EngineStopped,
    InvalidRequest,
    PromptTooLong,
    QueueFull,
)
from fromage_server.engine.events import ErrorEvent, Event, FinishEvent, ScoreEvent
from fromage_server.errors import ApiError

if TYPE_CHECKING:
    from fromage_server.engine.engine import Engine
    from fromage_server.engine.request import GenerationRequest, ScoringRequest

RETRY_AFTER_S = 2


class Arrivals:
    """All streams' events, on their way to one event loop. A step has one for each stream, and to
    wake the loop for each would cost the engine's thread more than the events do."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._events: deque[tuple[asyncio.Queue[Event], Event]] = deque()
        self._woken = False

    def put(self, queue: asyncio.Queue[Event], event: Event) -> None:
        """From any thread."""
        self._events.append((queue, event))
        if not self._woken:
            self._woken = True
            with suppress(RuntimeError):  # the loop is closed: nobody listens any more
                self._loop.call_soon_threadsafe(self._hand_out)

    def _hand_out(self) -> None:
        self._woken = False  # first: what comes from now on wakes again
        while self._events:
            queue, event = self._events.popleft()
            queue.put_nowait(event)


class EngineStream:
    """One request's way through the engine. Built on the event loop; ``submit`` may be called from
    any thread, before the events are read."""

    def __init__(self, engine: Engine, request_id: str, arrivals: Arrivals) -> None:
        self._engine = engine
        self.id = request_id
        self._arrivals = arrivals
        self._events: asyncio.Queue[Event] = asyncio.Queue()
        self._lock = threading.Lock()  # submit and cancel may meet
        self._submitted = False
        self._ended = False
        # What is prepared before the engine sees it counts as waiting.
        self._began = time.perf_counter()

    def submit(
        self, request: GenerationRequest | ScoringRequest, *, param: str | None = None
    ) -> None:
        """Raises ApiError for what the engine refuses; does nothing after ``cancel``."""
        with self._lock:
            if self._ended:
                return
            try:
                self._engine.submit(replace(request, arrived=self._began), self._arrive)
            except EngineError as error:
                raise refusal(error, param=param) from error
            self._submitted = True

    def cancel(self) -> None:
        """Frees the sequence; does nothing where it has ended."""
        with self._lock:
            if self._submitted and not self._ended:
                self._engine.cancel(self.id)
            self._ended = True

    async def events(self) -> AsyncIterator[Event]:
        """Up to and including FinishEvent. Raises ApiError where the engine failed."""
        while not self._ended:
            event = await self._events.get()
            if isinstance(event, FinishEvent | ErrorEvent):
                self._ended = True
            if isinstance(event, ErrorEvent):
                raise self._failure(event)
            yield event

    async def score(self) -> ScoreEvent:
        """The result of a ScoringRequest; the request is cancelled when its reader is."""
        try:
            found = [event async for event in self.events() if isinstance(event, ScoreEvent)]
        finally:
            self.cancel()
        return found[0]

    def _arrive(self, event: Event) -> None:
        self._arrivals.put(self._events, event)

    def _failure(self, event: ErrorEvent) -> ApiError:
        if not self._engine.alive:
            return ApiError("engine_dead", f"the engine has stopped: {event.message}")
        return ApiError("generation_failed", f"generation failed: {event.message}")


def refusal(error: EngineError, *, param: str | None = None) -> ApiError:
    """What the caller hears when the engine doesn't take a request; ``param`` is the field that
    the prompt came from."""
    match error:
        case QueueFull():
            return queue_full(str(error))
        case PromptTooLong(prompt_tokens=prompt, max_tokens=0, max_context=context):
            told = f"{param or 'the prompt'} comes to {prompt} tokens; the context holds {context}"
            return ApiError("context_length_exceeded", told, param=param)
        case PromptTooLong(prompt_tokens=prompt, max_tokens=asked, max_context=context):
            hints = [f"the prompt may have at most {context - asked} tokens"]
            if prompt < context:
                hints.insert(0, f"max_tokens may be at most {context - prompt}")
            told = f"{error}; {', or '.join(hints)}"
            return ApiError("context_length_exceeded", told, param=param)
        case EngineStopped():
            return ApiError("engine_dead", f"the engine has stopped: {error}")
        case InvalidRequest(field=field):
            return ApiError("invalid_value", str(error), param=field)
    return ApiError("internal_error", str(error))


def queue_full(message: str) -> ApiError:
    return ApiError("queue_full", message, retry_after=RETRY_AFTER_S)
