"""Over HTTP and SSE: `fromage serve` and `transformers serve`, each in a process of its own.

    python -m tests.benchmarks.online [--shape opt-125m] [--clients 16] [--rounds 5]

Both are asked for the same numbers of tokens, which differ from reply to reply, after prompts that
never repeat. Closed loop: all clients begin at once, and every one sends its next request when the
reply has ended. `--rate` sends Poisson arrivals instead.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import torch

from fromage_weights.bundle import ChatTemplate, FrozenModel, save_bundle
from fromage_weights.fingerprint import fingerprint
from fromage_weights.grounded import TextSegment
from fromage_weights.vision import VisionEncoder
from tests.benchmarks.collections import write_collection
from tests.benchmarks.load import Load, Reply, ask_fromage, ask_openai, ask_with_ret
from tests.benchmarks.measure import Row, Table, median_ratio, percentile
from tests.benchmarks.ours import Models, OurEngine, prompt_products
from tests.benchmarks.shapes import SHAPES, VISION_DIM, build
from tests.server.process import COMMAND, free_port

EACH, TOKENS = 6, (32, 96)
_TEMPLATE = "{% for m in messages %}{{ m['content'] }}{% endfor %}"


def write_bundle(path: Path, shape: str, dtype: torch.dtype) -> None:
    """The shape as a bundle, and as a plain model directory for others (`lm`)."""
    from transformers import CLIPVisionConfig, CLIPVisionModel

    model = build(shape, dtype)
    lm: Any = model.lm
    lm.save_pretrained(path / "lm")
    hf = model.tokenizer.hf
    hf.chat_template = _TEMPLATE
    hf.save_pretrained(path / "lm")
    tower = CLIPVisionModel(
        CLIPVisionConfig(
            hidden_size=VISION_DIM,
            intermediate_size=2 * VISION_DIM,
            num_hidden_layers=2,
            num_attention_heads=8,
            image_size=64,
            patch_size=16,
        )
    )
    tower.save_pretrained(path / "vision")
    vision = VisionEncoder.load(str(path / "vision"))
    save_bundle(
        path,
        model.mappers,
        name=shape,
        lm=FrozenModel(id="./lm", hash=fingerprint(lm)),
        vision=FrozenModel(id="./vision", hash=vision.fingerprint),
        chat_template=ChatTemplate(user="{content}", assistant="{content}", image="{image}"),
        stop=(),
    )


@contextmanager
def process(command: Sequence[str], url: str, ready: str, **env: str) -> Iterator[str]:
    """A server until the block ends; waits until ``ready`` answers 200."""
    with tempfile.TemporaryFile("w+") as log:
        running = subprocess.Popen(command, stdout=log, stderr=log, env=os.environ | env)
        try:
            _wait(running, url + ready)
            yield url
        except BaseException:
            log.seek(0)
            print(log.read()[-3000:], file=sys.stderr)
            raise
        finally:
            running.terminate()
            running.wait(60)


def _wait(running: subprocess.Popen[bytes], url: str) -> None:
    end = time.monotonic() + 300
    while time.monotonic() < end:
        if running.poll() is not None:
            raise RuntimeError(f"the server ended with {running.returncode}")
        try:
            if httpx.get(url, timeout=5).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.2)
    raise RuntimeError(f"{url} did not answer within 300 s")


def fromage(bundle: Path, dtype: str, streams: int) -> tuple[list[str], str]:
    port = free_port()
    command = [COMMAND, "serve", "--bundle", str(bundle), "--port", str(port)]
    command += ["--dtype", dtype, "--max-batch", str(streams), "--max-queue", "1000"]
    return command, f"http://127.0.0.1:{port}"


def transformers_serve(bundle: Path, dtype: str) -> tuple[list[str], str]:
    port = free_port()
    command = [str(Path(sys.executable).with_name("transformers")), "serve", str(bundle / "lm")]
    command += ["--host", "127.0.0.1", "--port", str(port), "--dtype", dtype]
    # Many times the keys and values of the load. Its own default, 0.6 of all memory, could be more
    # than the server beside it leaves.
    command += ["--continuous-batching", "--cb-max-memory-percent", "0.3"]
    return command, f"http://127.0.0.1:{port}"


@dataclass
class Measured:
    """Of all rounds. Waits are told apart by whether all clients had just begun at once."""

    speed: list[float] = field(default_factory=list)  # tokens/s
    first: list[float] = field(default_factory=list)  # the longest wait of each round
    waits: list[float] = field(default_factory=list)  # of all later requests

    def add(self, replies: Sequence[Reply], seconds: float) -> None:
        self.speed.append(sum(reply.tokens for reply in replies) / seconds)
        self.first.append(max((reply.ttft for reply in replies if reply.is_first), default=0))
        self.waits += [reply.ttft for reply in replies if not reply.is_first]

    @property
    def ttft99(self) -> float:
        return percentile(self.waits, 0.99)


def against_transformers_serve(
    bundle: Path, models: Models, dtype: str, load: Load, rounds: int, table: Table
) -> None:
    """One after the other in every round: two servers at once would share the cores."""
    ours, theirs = Measured(), Measured()
    ask_theirs = partial(ask_openai, model=str(bundle / "lm"))
    here, there = fromage(bundle, dtype, load.clients), transformers_serve(bundle, dtype)
    with (
        process(*here, "/readyz", HF_HUB_OFFLINE="1"),
        process(*there, "/health", HF_HUB_OFFLINE="1"),
    ):
        for i in range(rounds + 1):
            for url, ask, measured in (
                (here[1], ask_fromage, ours),
                (there[1], ask_theirs, theirs),
            ):
                replies, seconds = asyncio.run(load.run(url, ask, seed=i))
                if i:
                    measured.add(replies, seconds)
    for name, found in (("ours", ours), ("theirs", theirs)):
        print(name, [round(v, 1) for v in found.speed], [round(v, 2) for v in found.first])
    median = statistics.median
    if load.rate is None:
        name = f"{load.clients} clients over SSE, transformers serve"
        speed = median(ours.speed) / median(theirs.speed)
        detail = f"tokens/s: {median(ours.speed):.0f}, {median(theirs.speed):.0f}"
        table.add(Row(f"{name}: tokens/s", speed, 2, detail=detail))
    else:  # the speed is the arrivals'
        name = f"{load.rate:g} requests a second over SSE, transformers serve"
    wait = ours.ttft99 / theirs.ttft99
    detail = f"seconds: {ours.ttft99:.2f}, {theirs.ttft99:.2f}, of {len(ours.waits)} waits"
    table.add(Row(f"{name}: p99 TTFT, under way", wait, 0.5, below=True, detail=detail))
    if load.rate is None:
        wait = median(ours.first) / median(theirs.first)
        least = prompt_products(models.ours, _first_tokens(models, load, rounds))
        detail = f"seconds: {median(ours.first):.2f}, {median(theirs.first):.2f}"
        detail += f"; the prompts' matrix products alone {least:.2f}"
        name = f"{name}: longest TTFT of {load.clients} prompts at once"
        table.add(Row(name, wait, 0.5, below=True, detail=detail))


def _first_tokens(models: Models, load: Load, rounds: int) -> int:
    """Of the prompts that all clients begin with, in the round that has the median of them."""
    encode = models.ours.tokenizer.encode
    found = [
        sum(len(encode(part[0].prompt)) for part in load.parts(seed=i + 1)) for i in range(rounds)
    ]
    return int(statistics.median(found))


def against_engine(
    bundle: Path, models: Models, dtype: str, load: Load, rounds: int, table: Table
) -> None:
    """The same clients over HTTP and without it, in turn."""
    engine = OurEngine(models.ours, load.clients)
    encode = models.ours.tokenizer.encode
    ratios, frames, texts = [], 0, 0
    command, url = fromage(bundle, dtype, load.clients)
    with process(command, url, "/readyz", HF_HUB_OFFLINE="1"):
        for i in range(rounds + 1):
            replies, seconds = asyncio.run(load.run(url, ask_fromage, seed=i))
            clients = [
                [((TextSegment(encode(request.prompt)),), request.tokens) for request in part]
                for part in load.parts(seed=i)
            ]
            start = time.perf_counter()
            streams = engine.converse(clients)
            alone = time.perf_counter() - start
            assert sum(reply.tokens for reply in replies) == sum(s.done or 0 for s in streams)
            frames += sum(len(reply.arrivals) for reply in replies)
            texts += sum(stream.texts for stream in streams)
            if i:
                ratios.append(alone / seconds)
    # Each step's text in a frame of its own; a near tie may be another token in another batch.
    assert frames > 0.99 * texts, f"{texts} texts came in {frames} frames"
    name = f"{load.clients} clients over SSE, the engine alone: tokens/s"
    detail = f"{frames:,} frames with text, {texts:,} texts of steps"
    table.add(Row(name, statistics.median(ratios), 0.95, detail=detail))


def with_rets(bundle: Path, dtype: str, load: Load, rounds: int, table: Table) -> None:
    """A [RET] and its picture in every reply, searched for among 50,000 vectors, and none."""
    (_, *options), url = fromage(bundle, dtype, load.clients)
    options += ["--collection", f"bench={write_collection(bundle, 50_000)}"]
    command = [sys.executable, "-m", "tests.benchmarks.forced", *options]
    found: list[list[float]] = [[], []]
    checkout = str(Path(__file__).parents[2])
    with process(command, url, "/readyz", HF_HUB_OFFLINE="1", PYTHONPATH=checkout):
        for i in range(rounds + 1):
            for rets, speeds in enumerate(found):
                ask = partial(ask_with_ret, rets=rets)
                replies, seconds = asyncio.run(load.run(url, ask, seed=i))
                if i:
                    speeds.append(sum(reply.tokens for reply in replies) / seconds)
    without, with_one = found
    detail = "tokens/s: {:.0f}, {:.0f}".format(*map(statistics.median, (with_one, without)))
    name = f"{load.clients} clients over SSE, [RET] in every reply, against none: tokens/s"
    table.add(Row(name, median_ratio(with_one, without), 0.98, detail=detail))


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", choices=sorted(SHAPES), default="opt-125m")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--each", type=int, default=EACH, help="requests of a client, in a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rate", type=float, help="Poisson arrivals per second")
    args = parser.parse_args(argv)
    table = Table(f"{args.shape}, {args.dtype}, over HTTP")
    with tempfile.TemporaryDirectory() as directory:
        bundle = Path(directory)
        write_bundle(bundle, args.shape, getattr(torch, args.dtype))
        load = Load(args.clients, args.each, TOKENS, args.rate)
        models = Models.of(args.shape, getattr(torch, args.dtype))
        if args.rate is None:  # arrivals decide how long it takes, not the server
            against_engine(bundle, models, args.dtype, load, args.rounds, table)
            with_rets(bundle, args.dtype, load, args.rounds, table)
        against_transformers_serve(bundle, models, args.dtype, load, args.rounds, table)
    print(table.markdown())


if __name__ == "__main__":
    main()
