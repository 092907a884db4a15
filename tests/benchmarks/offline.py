"""The engine alone, against the floor, the reference's loop and transformers.

python -m tests.benchmarks.offline [--shape opt-125m] [--dtype float32] [--rounds 5]
"""

from __future__ import annotations

import argparse
import random
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from fromage_server.engine import (
    Engine,
    EngineConfig,
    FinishEvent,
    GenerationRequest,
    SamplingParams,
)
from fromage_server.engine.packing import pack_linears
from fromage_weights.grounded import GroundedModel, Segment, TextSegment
from tests.benchmarks import peers
from tests.benchmarks.measure import Row, Table, median_ratio, rates, timed
from tests.benchmarks.shapes import SHAPES, build

STREAMS = 16


class OurEngine:
    """One engine for all rounds, as a server keeps it."""

    def __init__(self, model: GroundedModel, streams: int) -> None:
        self._engine = Engine(model, EngineConfig(max_batch=streams, max_queue=1000))
        self._count = 0

    def run(self, prompts: Sequence[Sequence[Segment]], tokens: Sequence[int]) -> int:
        """Tokens generated."""
        done: list[int] = []

        def listen(event: object) -> None:
            if isinstance(event, FinishEvent):
                done.append(event.usage.completion_tokens)

        for prompt, length in zip(prompts, tokens, strict=True):
            self._count += 1
            params = SamplingParams(length, ignore_eos=True, max_num_rets=0)
            request = GenerationRequest(str(self._count), tuple(prompt), params)
            self._engine.submit(request, listen)
        while self._engine.step():
            pass
        return sum(done)


class Prompts:
    """Never the same twice, so that no prefix cache flatters."""

    def __init__(self, model: GroundedModel) -> None:
        self._random = random.Random(0)
        self._size = model.vocab_size - 2

    def one(self, length: int) -> tuple[Segment, ...]:
        return (TextSegment(tuple(self._random.randrange(self._size) for _ in range(length))),)

    def mixed(self, count: int) -> list[tuple[Segment, ...]]:
        """16 to 240 tokens."""
        return [self.one(16 + (i * 97) % 225) for i in range(count)]


@dataclass(frozen=True)
class Models:
    """``ours`` is prepared as the server prepares it; ``theirs`` is as transformers loads it."""

    ours: GroundedModel
    theirs: GroundedModel

    @classmethod
    def of(cls, shape: str, dtype: torch.dtype) -> Models:
        ours = build(shape, dtype)
        pack_linears(ours.lm)
        return cls(ours, build(shape, dtype))


def one_stream(models: Models, table: Table, rounds: int) -> None:
    model = models.theirs
    engine, prompts, floor = OurEngine(models.ours, 1), Prompts(model), peers.Floor(model)
    found = rates(
        {
            "engine": lambda: engine.run([prompts.one(64)], [64]),
            "generate": lambda: peers.generate(model, prompts.one(64), 64),
            "floor": floor.run(1, 64),
        },
        rounds,
    )
    ours = found["engine"]
    detail = _speeds(found)
    table.add(
        Row("one stream, generate()", median_ratio(ours, found["generate"]), 1.25, detail=detail)
    )
    table.add(Row("one stream, floor", median_ratio(ours, found["floor"]), 0.85))


def against_reference(models: Models, table: Table, rounds: int) -> None:
    """The reference's time is that of a step at the first, the middle and the last length."""
    model = models.theirs
    engine, prompts = OurEngine(models.ours, 1), Prompts(model)
    for prompt, tokens, target in ((64, 64, 4.5), (512, 128, 20.0)):
        ratios = []
        for i in range(rounds + 1):
            ours = timed(lambda: engine.run([prompts.one(prompt)], [tokens])) / tokens  # noqa: B023
            lengths = (prompt, prompt + tokens // 2, prompt + tokens)
            steps = [timed(lambda: peers.reference_step(model, n)) for n in lengths]  # noqa: B023
            if i:
                ratios.append(statistics.mean(steps) / ours)
        name = f"one stream, {prompt} + {tokens} tokens, the reference's loop"
        table.add(Row(name, statistics.median(ratios), target))


def many_streams(models: Models, table: Table, rounds: int) -> None:
    model = models.theirs
    engine, prompts, floor = OurEngine(models.ours, STREAMS), Prompts(model), peers.Floor(model)
    tokens = [64] * STREAMS
    found = rates(
        {
            "engine": lambda: engine.run(prompts.mixed(STREAMS), tokens),
            "generate": lambda: peers.generate(model, prompts.one(128), 64),
            "floor": floor.run(STREAMS, 32),
            "batching": lambda: peers.continuous_batching(model, prompts.mixed(STREAMS), tokens),
        },
        rounds,
    )
    ours = found["engine"]
    name = f"{STREAMS} streams, mixed lengths"
    detail = _speeds(found)
    table.add(Row(f"{name}, generate()", median_ratio(ours, found["generate"]), 7, detail=detail))
    table.add(Row(f"{name}, floor", median_ratio(ours, found["floor"]), 0.7))
    ratio = median_ratio(ours, found["batching"])
    table.add(Row(f"{name}, transformers' continuous batching", ratio, 2.5))


def _speeds(found: dict[str, list[float]]) -> str:
    parts = (f"{name} {statistics.median(values):.0f}" for name, values in found.items())
    return "tokens/s: " + ", ".join(parts)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", choices=sorted(SHAPES), default="opt-125m")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", choices=("one", "reference", "many"))
    args = parser.parse_args(argv)
    models = Models.of(args.shape, getattr(torch, args.dtype))
    table = Table(f"{args.shape}, {args.dtype}, {torch.get_num_threads()} threads")
    parts = {"one": one_stream, "reference": against_reference, "many": many_streams}
    for name, part in parts.items():
        if args.only in (None, name):
            part(models, table, args.rounds)
    print(table.markdown())


if __name__ == "__main__":
    main()
