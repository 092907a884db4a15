"""Running requests through an engine and keeping what comes back."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from fromage_server.engine import (
    Engine,
    ErrorEvent,
    Event,
    FinishEvent,
    GenerationRequest,
    RetEvent,
    SamplingParams,
    ScoreEvent,
    ScoringRequest,
    TokenEvent,
)
from fromage_weights.grounded import Segment

Engines = Callable[..., Engine]  # with the parameters of Engine


@dataclass
class Heard:
    """The events of one request, in order."""

    events: list[Event] = field(default_factory=list)

    def __call__(self, event: Event) -> None:
        self.events.append(event)

    @property
    def tokens(self) -> list[TokenEvent]:
        return [event for event in self.events if isinstance(event, TokenEvent)]

    @property
    def ids(self) -> list[int]:
        return [event.token_id for event in self.tokens]

    @property
    def text(self) -> str:
        return "".join(event.text for event in self.tokens)

    @property
    def rets(self) -> list[RetEvent]:
        return [event for event in self.events if isinstance(event, RetEvent)]

    @property
    def score(self) -> ScoreEvent:
        (event,) = (event for event in self.events if isinstance(event, ScoreEvent))
        return event

    @property
    def finish(self) -> FinishEvent:
        """Of a request that ended well: exactly one end, and nothing after it."""
        ends = [event for event in self.events if isinstance(event, FinishEvent | ErrorEvent)]
        assert ends == self.events[-1:], ends
        assert isinstance(ends[0], FinishEvent), ends[0]
        return ends[0]

    @property
    def error(self) -> str:
        ends = [event for event in self.events if isinstance(event, FinishEvent | ErrorEvent)]
        assert ends == self.events[-1:], ends
        assert isinstance(ends[0], ErrorEvent), ends[0]
        return ends[0].message

    @property
    def ended(self) -> bool:
        return bool(self.events) and isinstance(self.events[-1], FinishEvent | ErrorEvent)


def reply(
    name: str, segments: tuple[Segment, ...], max_tokens: int = 16, **options: Any
) -> GenerationRequest:
    positions = options.pop("prompt_ret_positions", ())
    return GenerationRequest(name, segments, SamplingParams(max_tokens, **options), positions)


def drain(engine: Engine) -> None:
    """Step until nothing is left to do."""
    for _ in range(10_000):
        if not engine.step():
            return
    raise AssertionError("the engine does not come to rest")


def answer(engine: Engine, request: GenerationRequest | ScoringRequest) -> Heard:
    """One request alone."""
    return answers(engine, [request])[0]


def answers(engine: Engine, requests: list[Any], steps_between: int = 0) -> list[Heard]:
    """Requests together; each one joins ``steps_between`` steps after the one before."""
    heard = [Heard() for _ in requests]
    for request, listener in zip(requests, heard, strict=True):
        engine.submit(request, listener)
        for _ in range(steps_between):
            engine.step()
    drain(engine)
    return heard


@contextmanager
def running(engine: Engine) -> Iterator[Engine]:
    engine.start()
    try:
        yield engine
    finally:
        engine.stop()


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "nothing happened in 30 s"
        time.sleep(0.002)
