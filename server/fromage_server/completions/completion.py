"""Several replies to one request as a stream of chunks, or as one completion."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from fromage_server.completions.rendering import Rendering
from fromage_server.errors import ApiError
from fromage_server.reply import (
    ImageShown,
    MessageEnd,
    MessageStart,
    Reply,
    ReplyEvent,
    TextDelta,
)
from fromage_server.schema.completions import ImageDelivery
from fromage_server.sse import DONE, data_frame

Json = dict[str, Any]


@dataclass(frozen=True)
class Style:
    """``base``: the server's address, as clients reach it."""

    id: str
    created: int
    model: str
    delivery: ImageDelivery
    base: str
    with_logprobs: bool
    include_usage: bool


class Completion:
    """``replies``: one per choice. It is read once, in one of the two ways."""

    def __init__(self, replies: Sequence[Reply], style: Style) -> None:
        self._replies = replies
        self._style = style
        self._choices = [_Choice(i, style) for i in range(len(replies))]

    def cancel(self) -> None:
        for reply in self._replies:
            reply.cancel()

    def failed(self, error: ApiError) -> bytes:
        """Without [DONE]: the reply is not whole."""
        return data_frame(error.envelope())

    async def frames(self) -> AsyncGenerator[bytes]:
        async with aclosing(self._chunks()) as chunks:
            async for choice in chunks:
                yield data_frame(self._chunk([choice]))
        if self._style.include_usage:
            yield data_frame(self._chunk([], self._usage()))
        yield DONE

    async def whole(self) -> Json:
        """Cancelled when its reader is."""
        messages: list[Json] = [{"role": "assistant", "content": ""} for _ in self._choices]
        logprobs: list[list[Json]] = [[] for _ in self._choices]
        reasons: list[str | None] = [None for _ in self._choices]
        try:
            async with aclosing(self._chunks()) as chunks:
                async for choice in chunks:
                    i, delta = choice["index"], choice["delta"]
                    messages[i]["content"] += delta.get("content", "")
                    if "images" in delta:
                        messages[i].setdefault("images", []).extend(delta["images"])
                    logprobs[i] += (choice["logprobs"] or {}).get("content", [])
                    reasons[i] = choice["finish_reason"]
        finally:
            self.cancel()
        choices = [
            {
                "index": i,
                "message": {**message, "refusal": None},
                "logprobs": _content(found) if self._style.with_logprobs else None,
                "finish_reason": reason,
            }
            for i, (message, found, reason) in enumerate(
                zip(messages, logprobs, reasons, strict=True)
            )
        ]
        return {
            **self._head("chat.completion"),
            "choices": choices,
            "usage": self._usage(),
        }

    async def _chunks(self) -> AsyncGenerator[Json]:
        """The choices' chunks as they come, each in its own order."""
        async with aclosing(_merged(self._replies)) as events:
            async for i, event in events:
                for chunk in self._choices[i].chunks(event):
                    yield chunk

    def _chunk(self, choices: list[Json], usage: Json | None = None) -> Json:
        told = {"usage": usage} if self._style.include_usage else {}
        return {**self._head("chat.completion.chunk"), "choices": choices, **told}

    def _head(self, kind: str) -> Json:
        style = self._style
        return {"id": style.id, "object": kind, "created": style.created, "model": style.model}

    def _usage(self) -> Json:
        """The prompt counts once."""
        usages = [choice.usage for choice in self._choices]
        prompt = usages[0]["prompt_tokens"]
        completion = sum(usage["completion_tokens"] for usage in usages)
        return {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
            "prompt_tokens_details": {
                "cached_tokens": min(usage["cached_tokens"] for usage in usages)
            },
            "images_in": usages[0]["images_in"],
            "images_out": sum(usage["images_out"] for usage in usages),
            "dropped_turns": usages[0]["dropped_turns"],
        }


class _Choice:
    """One reply's events, each as chunks of its choice."""

    def __init__(self, index: int, style: Style) -> None:
        self._index = index
        self._with_logprobs = style.with_logprobs
        self._rendering = Rendering(style.delivery, style.base)
        self._told = 0  # of the tokens, how many have gone out with their logprobs
        self.usage: Json = {}

    def chunks(self, event: ReplyEvent) -> Iterator[Json]:
        match event:
            case MessageStart():
                yield self._chunk({"role": "assistant", "content": ""})
            case TextDelta(_, _, logprobs):
                for delta in self._rendering.deltas(event):
                    yield self._chunk(delta, logprobs)
            case ImageShown():
                for delta in self._rendering.deltas(event):
                    yield self._chunk(delta)
            case MessageEnd(ending):
                self.usage = ending["usage"]
                rest = ending.get("logprobs", [])[self._told :]
                yield self._chunk({}, rest, ending["finish_reason"])

    def _chunk(
        self, delta: Json, logprobs: Sequence[Json] = (), finish_reason: str | None = None
    ) -> Json:
        self._told += len(logprobs)
        return {
            "index": self._index,
            "delta": delta,
            "logprobs": _logprobs(logprobs) if self._with_logprobs and logprobs else None,
            "finish_reason": finish_reason,
        }


def _logprobs(found: Sequence[Json]) -> Json:
    return _content(
        [{**_token(one), "top_logprobs": [_token(top) for top in one["top"]]} for one in found]
    )


def _content(tokens: list[Json]) -> Json:
    return {"content": tokens, "refusal": None}


def _token(one: Json) -> Json:
    """U+FFFD stands for a piece of a character, whose bytes are not known."""
    token: str = one["token"]
    known = None if "\ufffd" in token else list(token.encode())
    return {"token": token, "logprob": one["logprob"], "bytes": known}


async def _merged(replies: Sequence[Reply]) -> AsyncGenerator[tuple[int, ReplyEvent]]:
    """The replies' events as they come. The first that fails fails them all."""
    queue: asyncio.Queue[tuple[int, ReplyEvent] | Exception | None] = asyncio.Queue()

    async def read(i: int, events: AsyncIterator[ReplyEvent]) -> None:
        try:
            async for event in events:
                queue.put_nowait((i, event))
            queue.put_nowait(None)
        except Exception as error:
            queue.put_nowait(error)

    readers = [asyncio.ensure_future(read(i, r.events())) for i, r in enumerate(replies)]
    running = len(readers)
    try:
        while running:
            match await queue.get():
                case None:
                    running -= 1
                case Exception() as error:
                    raise error
                case (i, event):
                    yield i, event
    finally:
        for reader in readers:
            reader.cancel()
        await asyncio.gather(*readers, return_exceptions=True)
