"""This project's engine and models as the measurements drive them."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from torch import nn

from fromage_server.engine import (
    Engine,
    EngineConfig,
    ErrorEvent,
    Event,
    FinishEvent,
    GenerationRequest,
    RetEvent,
    SamplingParams,
    TokenEvent,
)
from fromage_server.engine.memory import spare_bytes
from fromage_server.engine.packing import pack_linears
from fromage_weights.cpu import keep_freed_blocks
from fromage_weights.grounded import GroundedModel, Segment, TextSegment
from tests.benchmarks.shapes import build

_AT_ONCE, _TRIALS = 512, 10
Asked: TypeAlias = tuple[Sequence[Segment], int]
"""A prompt, and how many tokens are wanted."""


@dataclass
class Stream:
    """When one reply's tokens came, in seconds."""

    asked: float = field(default_factory=time.perf_counter)
    times: list[float] = field(default_factory=list)
    texts: int = 0  # tokens that brought some
    rets: list[RetEvent] = field(default_factory=list)
    done: int | None = None

    def __call__(self, event: Event) -> None:
        if isinstance(event, TokenEvent):
            self.times.append(time.perf_counter())
            self.texts += event.text != ""
        elif isinstance(event, RetEvent):
            self.rets.append(event)
        elif isinstance(event, FinishEvent):
            self.done = event.usage.completion_tokens
        elif isinstance(event, ErrorEvent):
            raise RuntimeError(event.message)

    @property
    def ttft(self) -> float:
        return self.times[0] - self.asked


class OurEngine:
    """One engine for all rounds, as a server keeps it."""

    def __init__(self, model: GroundedModel, streams: int) -> None:
        self.engine = Engine(model, EngineConfig(max_batch=streams, max_queue=1000))
        self.engine.warm_up()
        self._count = 0

    def submit(
        self, prompt: Sequence[Segment], tokens: int, rets: int = 0, words: int = 0
    ) -> Stream:
        """``words``: that come before the first [RET]."""
        self._count += 1
        params = SamplingParams(tokens, ignore_eos=True, max_num_rets=rets, min_word_tokens=words)
        stream = Stream()
        self.engine.submit(GenerationRequest(str(self._count), tuple(prompt), params), stream)
        return stream

    def drain(self) -> None:
        while self.engine.step():
            pass

    def run(self, prompts: Sequence[Sequence[Segment]], tokens: Sequence[int]) -> int:
        """Tokens generated."""
        pairs = zip(prompts, tokens, strict=True)
        streams = [self.submit(prompt, length) for prompt, length in pairs]
        self.drain()
        return sum(stream.done or 0 for stream in streams)

    def converse(self, clients: Sequence[Sequence[Asked]]) -> list[Stream]:
        """Every client's requests, its next one when the reply has ended. All replies."""
        turns = [iter(client) for client in clients]
        streams = [self._next(turn) for turn in turns]
        done = []
        while any(streams):
            self.engine.step()
            for i, stream in enumerate(streams):
                if stream and stream.done is not None:
                    done.append(stream)
                    streams[i] = self._next(turns[i])
        return done

    def _next(self, turn: Iterator[Asked]) -> Stream | None:
        asked = next(turn, None)
        return asked and self.submit(*asked)

    def decode(self, prompts: Sequence[Sequence[Segment]], tokens: int) -> float:
        """Tokens per second from the step on in which nobody's prompt is computed any more."""
        streams = [self.submit(prompt, tokens) for prompt in prompts]
        while not all(stream.times for stream in streams):
            self.engine.step()
        start, before = time.perf_counter(), sum(len(stream.times) for stream in streams)
        while not any(stream.done for stream in streams):
            self.engine.step()
        done = sum(len(stream.times) for stream in streams) - before
        seconds = time.perf_counter() - start
        self.drain()
        return done / seconds


class Prompts:
    """Never the same twice, so that no prefix cache flatters. ``latest``: what ``mixed`` has made
    last, for another to be asked the same."""

    def __init__(self, model: GroundedModel) -> None:
        self._random = random.Random(0)
        self._size = model.vocab_size - 2
        self.latest: list[tuple[Segment, ...]] = []

    def one(self, length: int) -> tuple[Segment, ...]:
        return (TextSegment(tuple(self._random.randrange(self._size) for _ in range(length))),)

    def mixed(self, count: int) -> list[tuple[Segment, ...]]:
        """16 to 240 tokens."""
        self.latest = [self.one(16 + (i * 97) % 225) for i in range(count)]
        return self.latest


@dataclass(frozen=True)
class Models:
    """``ours`` is prepared as the server prepares it; ``theirs`` is as transformers loads it."""

    shape: str
    dtype: torch.dtype
    ours: GroundedModel
    theirs: GroundedModel

    @classmethod
    def of(cls, shape: str, dtype: torch.dtype, device: str = "cpu") -> Models:
        ours = build(shape, dtype, device)
        if ours.device.type == "cuda":  # nothing is changed there, and there may be no room for two
            return cls(shape, dtype, ours, ours)
        pack_linears(ours.lm, spare_bytes(ours.device))
        keep_freed_blocks()  # for the others in this process as well
        return cls(shape, dtype, ours, build(shape, dtype))


@torch.inference_mode()
def prompt_products(model: GroundedModel, tokens: int) -> float:
    """Seconds of the matrix products that so many prompt tokens take at the least, ``_AT_ONCE`` at
    once: without the head, and without the last layer, of which a prompt needs but a part."""
    lm: Any = model.lm
    head, layers = lm.get_output_embeddings(), int(lm.config.num_hidden_layers)
    linears = [m for m in lm.modules() if isinstance(m, nn.Linear) and m is not head]
    linears = linears[: len(linears) * (layers - 1) // layers]
    rows = min(tokens, _AT_ONCE)
    inputs = [
        torch.zeros(rows, m.in_features, dtype=model.dtype, device=model.device) for m in linears
    ]
    best = math.inf
    for _ in range(_TRIALS):
        start = time.perf_counter()
        for linear, x in zip(linears, inputs, strict=True):
            linear(x)
        if model.device.type == "cuda":  # they were only launched
            torch.cuda.synchronize(model.device)
        best = min(best, time.perf_counter() - start)
    return best * tokens / rows
