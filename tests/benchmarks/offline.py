"""The engine alone, against the floor, the reference's loop and transformers.

python -m tests.benchmarks.offline [--shape opt-125m] [--dtype float32] [--rounds 5]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence
from itertools import pairwise

import torch

from fromage_server.finder import DistinctFinder
from fromage_server.searches import Searches
from fromage_weights.grounded import ImageSegment
from tests.benchmarks import peers
from tests.benchmarks.collections import large_collection
from tests.benchmarks.forced import rets_forced
from tests.benchmarks.measure import Row, Table, median_ratio, percentile, rates, timed
from tests.benchmarks.ours import Models, OurEngine, Prompts
from tests.benchmarks.shapes import SHAPES, SHARED_DIM, VISION_DIM

STREAMS = 16


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
    least = 1.25 if models.dtype == torch.float32 else 1.05
    table.add(
        Row("one stream, generate()", median_ratio(ours, found["generate"]), least, detail=detail)
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
            # A quarter of them, as long on average: all would take minutes a round.
            "generate": lambda: sum(peers.generate(model, p, 64) for p in prompts.latest[2::4]),
        },
        rounds,
    )
    ours, name = found["engine"], f"{STREAMS} streams, mixed lengths"
    detail = _speeds(found)
    table.add(Row(f"{name}, generate()", median_ratio(ours, found["generate"]), 7, detail=detail))
    ratios, speeds = [], []
    for i in range(rounds + 1):
        decoded = engine.decode(prompts.mixed(STREAMS), 64)
        least = STREAMS / timed(lambda: floor.run(STREAMS, 32)()) * 32
        if i:
            ratios.append(decoded / least)
            speeds.append((decoded, least))
    detail = "tokens/s: engine {:.0f}, floor {:.0f}".format(
        *(statistics.median(column) for column in zip(*speeds, strict=True))
    )
    name_of_row = f"{name}, once the prompts are done, floor"
    table.add(Row(name_of_row, statistics.median(ratios), 0.7, detail=detail))
    with peers.ContinuousBatching(models.shape, models.dtype, str(model.device)) as batching:
        found = rates(
            {
                "engine": lambda: engine.run(prompts.mixed(STREAMS), tokens),
                "batching": lambda: batching.run(prompts.latest, max(tokens)),
            },
            rounds,
        )
    ratio = median_ratio(found["engine"], found["batching"])
    name = f"{name}, transformers' continuous batching"
    table.add(Row(name, ratio, 2.5, detail=_speeds(found)))


def second_turn(models: Models, table: Table, rounds: int) -> None:
    """A thousand tokens of history with two images, sent again with a new question."""
    engine, prompts = OurEngine(models.ours, 1), Prompts(models.ours)
    ratios, waits = [], []
    for i in range(rounds + 1):
        images = [ImageSegment(torch.randn(VISION_DIM)) for _ in range(2)]
        history = (*prompts.one(400), images[0], *prompts.one(300), images[1], *prompts.one(292))
        cold = engine.submit(history, 16)
        engine.drain()
        warm = engine.submit((*history, *prompts.one(20)), 16)
        engine.drain()
        if i:
            ratios.append(warm.ttft / cold.ttft)
            waits.append((cold.ttft, warm.ttft))
    detail = "ms: {:.0f}, {:.0f}".format(
        *(1000 * statistics.median(w) for w in zip(*waits, strict=True))
    )
    name = "second turn, 1,000 tokens and 2 images of history: TTFT, against cold"
    table.add(Row(name, statistics.median(ratios), 0.15, below=True, detail=detail))


def long_prompt(models: Models, table: Table, rounds: int) -> None:
    """What a prompt of 1,500 tokens does to seven streams, and they to it."""
    engine, prompts = OurEngine(models.ours, 8), Prompts(models.ours)
    worst, slower = [], []
    for i in range(rounds + 1):
        alone = engine.submit(prompts.one(1500), 1)
        engine.drain()
        streams = [engine.submit(prompts.one(64), 200) for _ in range(7)]
        while min(len(stream.times) for stream in streams) < 40:
            engine.engine.step()
        since = time.perf_counter()
        long = engine.submit(prompts.one(1500), 1)
        while not long.times:
            engine.engine.step()
        gaps = [gap for stream in streams for gap in pairwise(stream.times)]
        usual = statistics.median(b - a for a, b in gaps if b <= since)
        # That of the step which takes the prompt up began before it came.
        meanwhile = [b - a for a, b in gaps if b > since]
        engine.drain()
        if i:
            worst.append(percentile(meanwhile, 0.99) / usual)
            slower.append(long.ttft / alone.ttft)
    name = "7 streams while 1,500 tokens prefill"
    table.add(Row(f"{name}: ITL p99, against p50", statistics.median(worst), 4, below=True))
    table.add(Row(f"{name}: the prefill, against alone", statistics.median(slower), 2, below=True))


def ret_cost(models: Models, table: Table, rounds: int) -> None:
    """One [RET] in the first half of each reply, every one in a step of its own, searched for among
    50,000 vectors."""
    engine, prompts, searches = OurEngine(models.ours, STREAMS), Prompts(models.ours), Searches()

    def run(rets: int) -> float:
        streams = [
            engine.submit(prompts.one(32), 64, rets, words=2 * i + 1) for i in range(STREAMS)
        ]
        found = []
        while engine.engine.step():
            for stream in streams:
                for event in stream.rets:
                    finder = DistinctFinder(scope, 1, ())
                    found.append(searches.submit(finder.find(event.query)))
                stream.rets.clear()
        assert sum(len(one.result().shown) for one in found) == rets * STREAMS
        return sum(stream.done or 0 for stream in streams)

    try:
        with large_collection(50_000, SHARED_DIM) as scope, rets_forced():
            found = rates({"with": lambda: run(1), "without": lambda: run(0)}, rounds)
    finally:
        searches.close()
    ratio = median_ratio(found["with"], found["without"])
    table.add(Row("[RET] in every reply, against none", ratio, 0.98, detail=_speeds(found)))


def _speeds(found: dict[str, list[float]]) -> str:
    parts = (f"{name} {statistics.median(values):.0f}" for name, values in found.items())
    return "tokens/s: " + ", ".join(parts)


PARTS = {
    "one": one_stream,
    "reference": against_reference,
    "many": many_streams,
    "turn": second_turn,
    "stall": long_prompt,
    "ret": ret_cost,
}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", choices=sorted(SHAPES), default="opt-125m")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", choices=sorted(PARTS))
    args = parser.parse_args(argv)
    models = Models.of(args.shape, getattr(torch, args.dtype))
    table = Table(f"{args.shape}, {args.dtype}, {torch.get_num_threads()} threads")
    for name, part in PARTS.items():
        if args.only in (None, name):
            part(models, table, args.rounds)
    print(table.markdown())


if __name__ == "__main__":
    main()
