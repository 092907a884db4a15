"""Requests over HTTP as many clients send them, and when their replies came."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from aiohttp import ClientResponse, ClientSession, ClientTimeout, TCPConnector


@dataclass(frozen=True)
class Request:
    prompt: str
    tokens: int


@dataclass
class Reply:
    """Times of one reply, in seconds since it was asked for. ``is_first``: of its client's."""

    arrivals: list[float] = field(default_factory=list)
    tokens: int = 0
    is_first: bool = False

    @property
    def ttft(self) -> float:
        return self.arrivals[0]

    @property
    def gaps(self) -> list[float]:
        return [b - a for a, b in zip(self.arrivals, self.arrivals[1:], strict=False)]


Ask = Callable[[ClientSession, str, int], AsyncIterator[tuple[bool, int]]]


async def ask_fromage(
    client: ClientSession, prompt: str, tokens: int, *, rets: int = 0, words: int = 0
) -> AsyncIterator[tuple[bool, int]]:
    """(whether text came, the reply's tokens where it is told) for each event. ``words``: that come
    before the first [RET]."""
    body = {
        "prompt": [{"type": "text", "text": prompt}],
        "max_tokens": tokens,
        "ignore_eos": True,
        "max_num_rets": rets,
        "min_word_tokens": words,
        "stream": True,
    }
    async with client.post("/v1/generate", json=body) as response:
        response.raise_for_status()
        async for event in _events(response):
            if event.startswith(b"event: text.delta\n"):
                yield True, 0
            elif event.startswith(b"event: message.end\n"):
                usage = _data(event)["usage"]
                assert usage["images_out"] == rets
                yield False, usage["completion_tokens"]


async def ask_with_ret(
    client: ClientSession, prompt: str, tokens: int, *, rets: int
) -> AsyncIterator[tuple[bool, int]]:
    """Of a server where [RET]s are ``forced``: each reply's in another place of its first half.
    ``rets`` 0: the same without; the prompt's beginning differs, for the prefix cache."""
    words = 1 + len(prompt) % (tokens // 2)
    async for event in ask_fromage(client, f"{rets}{prompt}", tokens, rets=rets, words=words):
        yield event


async def ask_openai(
    client: ClientSession, prompt: str, tokens: int, *, model: str
) -> AsyncIterator[tuple[bool, int]]:
    body = {
        "model": model,
        "messages": [{"role": "user", "content": prompt}],
        "max_tokens": tokens,
        "stream": True,
        "temperature": 0,
        "stream_options": {"include_usage": True},
    }
    async with client.post("/v1/chat/completions", json=body) as response:
        response.raise_for_status()
        async for event in _events(response):
            if not event.startswith(b"data: {"):
                continue
            data = _data(event)
            choices = data.get("choices") or [{}]
            text = bool((choices[0].get("delta") or {}).get("content"))
            used = (data.get("usage") or {}).get("completion_tokens", 0)
            yield text, used


async def _events(response: ClientResponse) -> AsyncIterator[bytes]:
    """Server-sent events, as both servers frame them. Clients share the servers' cores here, and
    libraries that read a stream line by line would take as long as the server over a token."""
    rest = b""
    async for part in response.content.iter_any():
        *events, rest = (rest + part).split(b"\n\n")
        for event in events:
            yield event


def _data(event: bytes) -> Any:
    return json.loads(event.partition(b"data: ")[2])


@dataclass
class Load:
    """``clients`` at once, ``each`` requests per client; or ``rate`` arrivals per second.

    Replies of one length would all end at once, and all prompts come together, again and again.
    """

    clients: int
    each: int
    tokens: tuple[int, int]  # of a reply, from the first to the second
    rate: float | None = None

    async def run(self, url: str, ask: Ask, seed: int) -> tuple[list[Reply], float]:
        """The replies, and the seconds that all took."""
        rng = random.Random(seed)
        connections = TCPConnector(limit=0)
        timeout = ClientTimeout(600)
        async with ClientSession(url, timeout=timeout, connector=connections) as client:
            start = time.perf_counter()
            if self.rate is None:
                turns = [self._turns(client, ask, part) for part in self.parts(seed)]
                found = await asyncio.gather(*turns)
                replies = [reply for part in found for reply in part]
            else:
                replies = await self._arrivals(client, ask, self.requests(seed), rng)
            return replies, time.perf_counter() - start

    def requests(self, seed: int) -> list[Request]:
        """Prompts of 16 to 240 tokens, of the shapes' tokenizers."""
        rng = random.Random(seed)
        return [
            Request(
                "".join(rng.choice("abcdefgh ") for _ in range(rng.randint(16, 240))),
                rng.randint(*self.tokens),
            )
            for _ in range(self.clients * self.each)
        ]

    def parts(self, seed: int) -> list[list[Request]]:
        """Each client's."""
        requests = self.requests(seed)
        return [requests[i :: self.clients] for i in range(self.clients)]

    async def _turns(
        self, client: ClientSession, ask: Ask, requests: Sequence[Request]
    ) -> list[Reply]:
        replies = [await self._one(client, ask, request) for request in requests]
        replies[0].is_first = True
        return replies

    async def _arrivals(
        self, client: ClientSession, ask: Ask, requests: Sequence[Request], rng: random.Random
    ) -> list[Reply]:
        assert self.rate is not None
        tasks = []
        for request in requests:
            tasks.append(asyncio.create_task(self._one(client, ask, request)))
            await asyncio.sleep(rng.expovariate(self.rate))
        return list(await asyncio.gather(*tasks))

    async def _one(self, client: ClientSession, ask: Ask, request: Request) -> Reply:
        reply, start = Reply(), time.perf_counter()
        async for is_text, tokens in ask(client, request.prompt, request.tokens):
            if is_text:
                reply.arrivals.append(time.perf_counter() - start)
            reply.tokens = tokens or reply.tokens
        return reply
