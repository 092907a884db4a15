"""Over HTTP and SSE: `fromage serve` and `transformers serve`, each in a process of its own.

    python -m tests.benchmarks.online [--shape opt-125m] [--clients 16] [--rounds 5]

Both are asked for the same numbers of tokens after prompts that never repeat. Closed loop: every
client sends its next request when the reply has ended. `--rate` sends Poisson arrivals instead.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
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
from tests.benchmarks import offline
from tests.benchmarks.measure import Row, Table, percentile, timed
from tests.benchmarks.shapes import SHAPES, VISION_DIM, build
from tests.server.process import COMMAND, free_port

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


@dataclass
class Reply:
    """Times of one reply, in seconds since it was asked for."""

    arrivals: list[float] = field(default_factory=list)
    tokens: int = 0

    @property
    def ttft(self) -> float:
        return self.arrivals[0]

    @property
    def gaps(self) -> list[float]:
        return [b - a for a, b in zip(self.arrivals, self.arrivals[1:], strict=False)]


Ask = Callable[[httpx.AsyncClient, str, int], AsyncIterator[tuple[bool, int]]]


async def ask_fromage(
    client: httpx.AsyncClient, prompt: str, tokens: int
) -> AsyncIterator[tuple[bool, int]]:
    """(whether text came, the reply's tokens where it is told) for each event."""
    body = {
        "prompt": [{"type": "text", "text": prompt}],
        "max_tokens": tokens,
        "ignore_eos": True,
        "max_num_rets": 0,
        "stream": True,
    }
    async with client.stream("POST", "/v1/generate", json=body) as response:
        response.raise_for_status()
        event = ""
        async for line in response.aiter_lines():
            if line.startswith("event: "):
                event = line.removeprefix("event: ")
            elif line.startswith("data: ") and event == "text.delta":
                yield True, 0
            elif line.startswith("data: ") and event == "message.end":
                usage = json.loads(line.removeprefix("data: "))["usage"]
                yield False, usage["completion_tokens"]


async def ask_openai(
    client: httpx.AsyncClient, prompt: str, tokens: int, *, model: str
) -> AsyncIterator[tuple[bool, int]]:
    body = {
        "model": model,
        "messages": [{"role": "user", "content": prompt}],
        "max_tokens": tokens,
        "stream": True,
        "temperature": 0,
        "stream_options": {"include_usage": True},
    }
    async with client.stream("POST", "/v1/chat/completions", json=body) as response:
        response.raise_for_status()
        async for line in response.aiter_lines():
            if not line.startswith("data: {"):
                continue
            data = json.loads(line.removeprefix("data: "))
            choices = data.get("choices") or [{}]
            text = bool((choices[0].get("delta") or {}).get("content"))
            used = (data.get("usage") or {}).get("completion_tokens", 0)
            yield text, used


@dataclass
class Load:
    """``clients`` at once, ``each`` requests per client; or ``rate`` arrivals per second."""

    clients: int
    each: int
    tokens: int
    rate: float | None = None

    async def run(self, url: str, ask: Ask, seed: int) -> tuple[list[Reply], float]:
        """The replies, and the seconds that all took."""
        rng, prompts = random.Random(seed), self.prompts(seed)
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(base_url=url, timeout=600, limits=limits) as client:
            start = time.perf_counter()
            if self.rate is None:
                parts = [prompts[i :: self.clients] for i in range(self.clients)]
                found = await asyncio.gather(*(self._turns(client, ask, part) for part in parts))
                replies = [reply for part in found for reply in part]
            else:
                replies = await self._arrivals(client, ask, prompts, rng)
            return replies, time.perf_counter() - start

    def prompts(self, seed: int) -> list[str]:
        """16 to 240 tokens each, of the shapes' tokenizers."""
        rng = random.Random(seed)
        return [
            "".join(rng.choice("abcdefgh ") for _ in range(rng.randint(16, 240)))
            for _ in range(self.clients * self.each)
        ]

    async def _turns(
        self, client: httpx.AsyncClient, ask: Ask, prompts: Sequence[str]
    ) -> list[Reply]:
        return [await self._one(client, ask, prompt) for prompt in prompts]

    async def _arrivals(
        self, client: httpx.AsyncClient, ask: Ask, prompts: Sequence[str], rng: random.Random
    ) -> list[Reply]:
        assert self.rate is not None
        tasks = []
        for prompt in prompts:
            tasks.append(asyncio.create_task(self._one(client, ask, prompt)))
            await asyncio.sleep(rng.expovariate(self.rate))
        return list(await asyncio.gather(*tasks))

    async def _one(self, client: httpx.AsyncClient, ask: Ask, prompt: str) -> Reply:
        reply, start = Reply(), time.perf_counter()
        async for is_text, tokens in ask(client, prompt, self.tokens):
            if is_text:
                reply.arrivals.append(time.perf_counter() - start)
            reply.tokens = tokens or reply.tokens
        return reply


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
    command += ["--continuous-batching", "--port", str(port), "--dtype", dtype, "--host"]
    return [*command, "127.0.0.1"], f"http://127.0.0.1:{port}"


@dataclass
class Measured:
    """Medians over the rounds."""

    speed: list[float] = field(default_factory=list)  # tokens/s
    ttft99: list[float] = field(default_factory=list)

    def add(self, replies: Sequence[Reply], seconds: float) -> None:
        self.speed.append(sum(reply.tokens for reply in replies) / seconds)
        self.ttft99.append(percentile([reply.ttft for reply in replies], 0.99))


def against_transformers_serve(
    bundle: Path, dtype: str, load: Load, rounds: int, table: Table
) -> None:
    """One after the other in every round: two servers at once would share the cores."""
    ours, theirs = Measured(), Measured()
    ask_theirs = partial(ask_openai, model=str(bundle / "lm"))
    for name, (command, url), ready, ask, measured in (
        ("ours", fromage(bundle, dtype, load.clients), "/readyz", ask_fromage, ours),
        ("theirs", transformers_serve(bundle, dtype), "/health", ask_theirs, theirs),
    ):
        with process(command, url, ready, HF_HUB_OFFLINE="1"):
            asyncio.run(load.run(url, ask, seed=0))
            for i in range(rounds):
                replies, seconds = asyncio.run(load.run(url, ask, seed=i + 1))
                measured.add(replies, seconds)
        print(name, [round(v, 1) for v in measured.speed], [round(v, 2) for v in measured.ttft99])
    median = statistics.median
    name = f"{load.clients} clients over SSE, transformers serve"
    speed = median(ours.speed) / median(theirs.speed)
    detail = f"tokens/s: {median(ours.speed):.0f}, {median(theirs.speed):.0f}"
    table.add(Row(f"{name}: tokens/s", speed, 2, detail=detail))
    wait = median(ours.ttft99) / median(theirs.ttft99)
    detail = f"seconds: {median(ours.ttft99):.2f}, {median(theirs.ttft99):.2f}"
    table.add(Row(f"{name}: p99 TTFT", wait, 0.5, below=True, detail=detail))


def against_engine(
    bundle: Path, models: offline.Models, dtype: str, load: Load, rounds: int, table: Table
) -> None:
    """The same prompts over HTTP and without it, in turn."""
    engine = offline.OurEngine(models.ours, load.clients)
    encode = models.ours.tokenizer.encode
    ratios = []
    command, url = fromage(bundle, dtype, load.clients)
    with process(command, url, "/readyz", HF_HUB_OFFLINE="1"):
        for i in range(rounds + 1):
            replies, seconds = asyncio.run(load.run(url, ask_fromage, seed=i))
            prompts = [(TextSegment(encode(text)),) for text in load.prompts(seed=i)]
            alone = timed(lambda: engine.run(prompts, [load.tokens] * len(prompts)))  # noqa: B023
            assert sum(reply.tokens for reply in replies) == load.tokens * len(prompts)
            if i:
                ratios.append(alone / seconds)
    name = f"{load.clients} clients over SSE, the engine alone: tokens/s"
    table.add(Row(name, statistics.median(ratios), 0.95))


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", choices=sorted(SHAPES), default="opt-125m")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rate", type=float, help="Poisson arrivals per second")
    args = parser.parse_args(argv)
    table = Table(f"{args.shape}, {args.dtype}, over HTTP")
    with tempfile.TemporaryDirectory() as directory:
        bundle = Path(directory)
        write_bundle(bundle, args.shape, getattr(torch, args.dtype))
        load = Load(args.clients, each=2, tokens=64, rate=args.rate)
        models = offline.Models.of(args.shape, getattr(torch, args.dtype))
        against_engine(bundle, models, args.dtype, load, args.rounds, table)
        against_transformers_serve(bundle, args.dtype, load, args.rounds, table)
    print(table.markdown())


if __name__ == "__main__":
    main()
