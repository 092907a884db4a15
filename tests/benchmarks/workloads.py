"""How long people wait, under loads of different kinds: a latency table of `fromage serve`.

    python -m tests.benchmarks.workloads [--shape opt-125m] [--clients 16]

TTFT: until the first text. TPOT: from there on, per token. ITL: between two frames with text.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import io
import json
import random
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import torch
from PIL import Image

from tests.benchmarks.load import Reply
from tests.benchmarks.measure import Table, percentile
from tests.benchmarks.online import fromage, process, write_bundle
from tests.benchmarks.shapes import SHAPES

Json = dict[str, Any]
_SIDE = 256  # of a picture, in pixels
_HEADER = (
    "| load | replies/s | tokens/s | TTFT p50, p99 | TPOT p50 | ITL p50, p99 | all of it p50, p99 |"
)


@dataclass(frozen=True)
class Workload:
    """``conversations`` of ``turns`` turns each, all at once or arriving at ``rate`` per second.
    ``pictures``: in every conversation's first turn "none", "new" or the "same" one."""

    name: str
    conversations: int
    turns: int = 1
    pictures: str = "none"
    rate: float | None = None
    tokens: tuple[int, int] = (32, 96)  # of a reply; of one length they would all end at once

    async def run(self, url: str, seed: int) -> tuple[list[Reply], float]:
        """The replies, and the seconds that all took."""
        rng = random.Random(seed)
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(base_url=url, timeout=600, limits=limits) as client:
            start = time.perf_counter()
            tasks = []
            for i in range(self.conversations):
                talk = self._talk(client, random.Random(f"{seed} {i}"))
                tasks.append(asyncio.create_task(talk))
                if self.rate is not None:
                    await asyncio.sleep(rng.expovariate(self.rate))
            found = await asyncio.gather(*tasks)
            seconds = time.perf_counter() - start
        return [reply for replies in found for reply in replies], seconds

    async def _talk(self, client: httpx.AsyncClient, rng: random.Random) -> list[Reply]:
        messages: list[Json] = []
        replies = []
        for turn in range(self.turns):
            content = [{"type": "text", "text": _words(rng, 16, 240)}]
            if turn == 0 and self.pictures != "none":
                content.insert(0, _picture(rng if self.pictures == "new" else random.Random(0)))
            messages.append({"role": "user", "content": content})
            reply, said = await self._turn(client, messages, rng.randint(*self.tokens))
            messages.append({"role": "assistant", "content": said})
            replies.append(reply)
        return replies

    async def _turn(
        self, client: httpx.AsyncClient, messages: Sequence[Json], tokens: int
    ) -> tuple[Reply, list[Json]]:
        body = {
            "messages": list(messages),
            "max_tokens": tokens,
            "ignore_eos": True,
            "stream": True,
        }
        reply, said, start = Reply(), "", time.perf_counter()
        async with client.stream("POST", "/v1/chat", json=body) as response:
            response.raise_for_status()
            event = ""
            async for line in response.aiter_lines():
                if line.startswith("event: "):
                    event = line.removeprefix("event: ")
                elif line.startswith("data: ") and event == "text.delta":
                    reply.arrivals.append(time.perf_counter() - start)
                    said += json.loads(line.removeprefix("data: "))["text"]
                elif line.startswith("data: ") and event == "message.end":
                    usage = json.loads(line.removeprefix("data: "))["usage"]
                    reply.tokens = usage["completion_tokens"]
        return reply, [{"type": "text", "text": said}]


def measure(bundle: Path, dtype: str, clients: int, table: Table) -> None:
    """Every workload in one server, each after a run that is not counted."""
    command, url = fromage(bundle, dtype, clients)
    lines = [_HEADER, "|---|---|---|---|---|---|---|"]
    with process(command, url, "/readyz", HF_HUB_OFFLINE="1"):
        closed = _measured(url, Workload("text", clients), lines)
        rate = 0.7 * closed
        _measured(url, Workload(f"text, {rate:.1f} a second (Poisson)", clients, rate=rate), lines)
        _measured(url, Workload("each with a new picture", clients, pictures="new"), lines)
        _measured(url, Workload("all with the same picture", clients, pictures="same"), lines)
        talks = Workload("three turns, a picture in the first", clients, 3, pictures="new")
        _measured(url, talks, lines)
    table.note(
        "\n".join([f"Over HTTP, {clients} clients, 32 to 96 tokens each, in ms:", "", *lines])
    )


def _measured(url: str, load: Workload, lines: list[str]) -> float:
    """Replies per second."""
    asyncio.run(load.run(url, seed=0))
    replies, seconds = asyncio.run(load.run(url, seed=1))
    waits = [1000 * reply.ttft for reply in replies]
    gaps = [1000 * gap for reply in replies for gap in reply.gaps]
    ends = [1000 * reply.arrivals[-1] for reply in replies]
    paces = [(e - w) / (r.tokens - 1) for e, w, r in zip(ends, waits, replies, strict=True)]
    cells = [
        load.name,
        f"{len(replies) / seconds:.1f}",
        f"{sum(reply.tokens for reply in replies) / seconds:.0f}",
        _both(waits),
        f"{statistics.median(paces):.0f}",
        _both(gaps),
        _both(ends),
    ]
    lines.append(f"| {' | '.join(cells)} |")
    print(lines[-1], flush=True)
    return len(replies) / seconds


def _both(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.0f}, {percentile(values, 0.99):.0f}"


def _words(rng: random.Random, least: int, most: int) -> str:
    return "".join(rng.choice("abcdefgh ") for _ in range(rng.randint(least, most)))


def _picture(rng: random.Random) -> Json:
    pixels = np.random.default_rng(rng.getrandbits(32)).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).resize((_SIDE, _SIDE)).save(out, "JPEG")
    url = f"data:image/jpeg;base64,{base64.b64encode(out.getvalue()).decode()}"
    return {"type": "image_url", "image_url": {"url": url}}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", choices=sorted(SHAPES), default="opt-125m")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--clients", type=int, default=16)
    args = parser.parse_args(argv)
    table = Table(f"{args.shape}, {args.dtype}")
    with tempfile.TemporaryDirectory() as directory:
        write_bundle(Path(directory), args.shape, getattr(torch, args.dtype))
        measure(Path(directory), args.dtype, args.clients, table)


if __name__ == "__main__":
    main()
