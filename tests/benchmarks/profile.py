"""What a decode step spends where, and what the wait for a first token.

python -m tests.benchmarks.profile [--shape opt-125m] [--dtype float32]
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial, partialmethod
from typing import Any
from unittest.mock import patch

import torch
from torch.profiler import ProfilerActivity, profile

from fromage_server.engine import few_rows, greedy_head, panels
from fromage_server.engine.many_queries import PromptKernel
from fromage_server.engine.single_queries import Kernel
from tests.benchmarks.measure import Table
from tests.benchmarks.offline import STREAMS
from tests.benchmarks.ours import Models, OurEngine, Prompts
from tests.benchmarks.shapes import SHAPES

_STEPS = 20
# By the names of torch's operations, the first that fits; what is left is norms, activations, ….
_KINDS = {
    "the head and the choice of a token": ("greedy head",),
    "matrix products": ("linear", "addmm", "::mm", "matmul", "bmm"),
    "attention": ("attention", "flash", "logsumexp", "paged"),
    "storing keys and values": ("index_copy",),
    "sampling": ("argmax", "amax", "softmax", "sort"),
}


def measure(models: Models, table: Table) -> None:
    for streams in (1, STREAMS):
        told = _told(_decode_step(models, streams))
        table.note(f"A decode step of {streams} streams of about 200 tokens: {told}.")
    told = _told(_first_tokens(models))
    table.note(f"{STREAMS} prompts of mixed lengths at once, to the last first token: {told}.")


def _told(shares: Counter[str]) -> str:
    return ", ".join(f"{name} {share:.0%}" for name, share in shares.most_common())


def _decode_step(models: Models, streams: int) -> Counter[str]:
    engine, prompts = OurEngine(models.ours, streams), Prompts(models.ours)
    running = [engine.submit(prompts.one(192), 64) for _ in range(streams)]
    while min(len(stream.times) for stream in running) < 4:
        engine.engine.step()

    def steps() -> None:
        for _ in range(_STEPS):
            engine.engine.step()

    shares = _shares(models, steps)
    engine.drain()
    return shares


def _first_tokens(models: Models) -> Counter[str]:
    engine, prompts = OurEngine(models.ours, STREAMS), Prompts(models.ours)
    engine.run(prompts.mixed(STREAMS), [4] * STREAMS)
    running = [engine.submit(prompt, 64) for prompt in prompts.mixed(STREAMS)]

    def steps() -> None:
        while not all(stream.times for stream in running):
            engine.engine.step()

    shares = _shares(models, steps)
    engine.drain()
    return shares


def _shares(models: Models, steps: Callable[[], None]) -> Counter[str]:
    """Of the time of ``steps``; "Python and the rest" is what no operation accounts for."""
    on_gpu = models.ours.device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    multiply, many, choose = few_rows._call(), panels._call(), greedy_head._call()
    with (
        patch.object(Kernel, "__call__", partialmethod(_marked, Kernel.__call__)),
        patch.object(PromptKernel, "__call__", partialmethod(_marked, PromptKernel.__call__)),
        patch.object(few_rows, "_call", lambda: partial(_named, "compiled linear", multiply)),
        patch.object(panels, "_call", lambda: partial(_named, "compiled linear", many)),
        patch.object(greedy_head, "_call", lambda: partial(_named, "greedy head", choose)),
        profile(activities=activities) as profiled,
        torch.profiler.record_function("steps"),
    ):
        steps()
    spent: Counter[str] = Counter()
    for event in profiled.key_averages():
        if event.key == "steps":
            whole = event.device_time_total if on_gpu else event.cpu_time_total
            continue
        time = event.self_device_time_total if on_gpu else event.self_cpu_time_total
        spent[_kind(event.key)] += time
    spent["Python and the rest"] = whole - sum(spent.values())
    return Counter({name: time / whole for name, time in spent.items()})


# They are no operations of torch's, so the profiler has to be told.
def _marked(kernel: object, call: Callable[..., None], *args: Any) -> None:
    with torch.profiler.record_function("compiled attention"):
        call(kernel, *args)


def _named(name: str, call: Callable[..., None], *args: Any) -> None:
    with torch.profiler.record_function(name):
        call(*args)


def _kind(operation: str) -> str:
    for kind, parts in _KINDS.items():
        if any(part in operation for part in parts):
            return kind
    return "norms, activations, copies"


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", choices=sorted(SHAPES), default="opt-125m")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    args = parser.parse_args(argv)
    table = Table(f"{args.shape}, {args.dtype}, {torch.get_num_threads()} threads")
    measure(Models.of(args.shape, getattr(torch, args.dtype)), table)
    print(table.markdown())


if __name__ == "__main__":
    main()
