"""Replies in the making: from the engine's events to the reply's."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from fromage_server import reference
from fromage_server.engine.events import (
    FinishEvent,
    RetEvent,
    ScoreEvent,
    TokenEvent,
    TokenLogprob,
)
from fromage_server.engine_stream import EngineStream
from fromage_server.finder import Finder, Found
from fromage_server.prompt import Prompt
from fromage_server.reply import ContentBuilder, ImageShown, MessageEnd, MessageStart, ReplyEvent
from fromage_server.searches import Query, Searching
from fromage_server.workers import Workers

if TYPE_CHECKING:
    from fromage_weights.tokenizer import FromageTokenizer

Json = dict[str, Any]


@dataclass(frozen=True)
class ReplyPlan:
    """What a reply needs beside the engine's events."""

    id: str
    model: str
    prompt: Prompt
    tokenizer: FromageTokenizer
    finder: Finder
    workers: Workers
    max_num_rets: int
    inline_images: bool = False
    with_token_ids: bool = False
    with_logprobs: bool = False
    with_queries: bool = False
    compat: bool = False

    async def image_parts(self, query: Query, ret_index: int) -> list[Json]:
        """The image parts that a [RET] brings; searched on the search thread."""
        return await self.workers.search(self._image_parts(query, ret_index))

    def _image_parts(self, query: Query, ret_index: int) -> Searching[list[Json]]:
        found = yield from self.finder.find(query)
        if found is None:
            return []
        return [self._part(found, place, query, ret_index) for place in range(len(found.shown))]

    def _part(self, found: Found, place: int, query: Query, ret_index: int) -> Json:
        part: Json = {
            "type": "image",
            "ret_index": ret_index,
            "image": found.scope.describe(found.shown[place], inline=self.inline_images),
            # Once per [RET]: they stand in for any of its images.
            "alternatives": [found.scope.describe(hit) for hit in found.alternatives]
            if place == 0
            else [],
        }
        if self.with_queries:
            part["query_embedding"] = query.tolist()
        return part


class _EngineReply:
    def __init__(self, plan: ReplyPlan, stream: EngineStream) -> None:
        self._plan = plan
        self._stream = stream
        self._content = ContentBuilder()
        self._token_ids: list[int] = []
        self._logprobs: list[Json] = []
        self._told = 0  # of the logprobs, how many went with a delta

    def cancel(self) -> None:
        self._stream.cancel()

    def _start(self) -> MessageStart:
        return MessageStart(self._plan.id, self._plan.model)

    def _note(self, event: TokenEvent) -> None:
        self._token_ids.append(event.token_id)
        if event.logprob is not None:
            self._logprobs.append(logprob_json(event.logprob, self._plan.tokenizer))

    def _untold(self) -> tuple[Json, ...]:
        new = tuple(self._logprobs[self._told :])
        self._told += len(new)
        return new

    async def _images(self, query: Query, ret_index: int) -> list[ImageShown]:
        parts = await self._plan.image_parts(query, ret_index)
        return [self._content.image(part) for part in parts]

    def _end(self, finish: FinishEvent) -> MessageEnd:
        usage = asdict(finish.usage)
        ending: Json = {
            "finish_reason": finish.reason,
            "usage": {
                **usage,
                "total_tokens": finish.usage.prompt_tokens + finish.usage.completion_tokens,
                "images_in": len(self._plan.prompt.pictures),
                "images_out": self._content.images,
                "dropped_turns": self._plan.prompt.dropped_turns,
            },
            "timings": asdict(finish.timings),
        }
        if self._plan.with_token_ids:
            ending["token_ids"] = self._token_ids
        if self._plan.with_logprobs:
            ending["logprobs"] = self._logprobs
        return MessageEnd(ending)


class LiveReply(_EngineReply):
    """The default: text as it becomes final, images where their [RET] stands. ``trim_start``
    leaves out the white space in front, which the chat template puts there again."""

    def __init__(self, plan: ReplyPlan, stream: EngineStream, *, trim_start: bool = False) -> None:
        super().__init__(plan, stream)
        self._trim_start = trim_start

    async def events(self) -> AsyncIterator[ReplyEvent]:
        yield self._start()
        trim = self._trim_start
        async for event in self._stream.events():
            match event:
                case TokenEvent():
                    self._note(event)
                    text = event.text.lstrip() if trim else event.text
                    trim = trim and not text
                    for delta in self._content.text(text):
                        yield replace(delta, logprobs=self._untold()) if self._logprobs else delta
                case RetEvent():
                    trim = False
                    for image in await self._images(event.query, event.ret_index):
                        yield image
                case FinishEvent():
                    yield self._end(event)


class ReferenceReply(_EngineReply):
    """`reference_compat`: nothing can be shown before the last token, since the cuts look ahead."""

    async def events(self) -> AsyncIterator[ReplyEvent]:
        yield self._start()
        queries: dict[int, Query] = {}
        async for event in self._stream.events():
            match event:
                case TokenEvent():
                    self._note(event)
                case RetEvent():
                    queries[event.token_index] = event.query
                case FinishEvent():
                    for part in await self._assemble(queries):
                        yield part
                    yield self._end(event)

    async def _assemble(self, queries: Mapping[int, Query]) -> list[ReplyEvent]:
        tokenizer = self._plan.tokenizer
        ids = reference.cut_at_newline(self._token_ids, tokenizer.encode("\n")[0])
        kept = {place: query for place, query in queries.items() if place < len(ids)}
        found = reference.passages(ids, kept, tokenizer, self._plan.max_num_rets)
        return [part async for part in show(found, self._content, self._plan)]


class PromptReply(_EngineReply):
    """`max_tokens: 0`: the prompt is the text, and its own [RET]s bring the images.

    ``places`` are the [RET]s' indices in the prompt's text, in the order of the queries asked for.
    """

    def __init__(self, plan: ReplyPlan, stream: EngineStream, places: tuple[int, ...]) -> None:
        super().__init__(plan, stream)
        self._places = places

    async def events(self) -> AsyncIterator[ReplyEvent]:
        yield self._start()
        async for event in self._stream.events():
            match event:
                case ScoreEvent():
                    queries = dict(zip(self._places, event.queries, strict=True))
                    async for part in show(self._passages(queries), self._content, self._plan):
                        yield part
                case FinishEvent(_, usage, timings):
                    yield self._end(FinishEvent("length", usage, timings))

    def _passages(self, queries: Mapping[int, Query]) -> Iterator[reference.Passage]:
        plan = self._plan
        ids = plan.prompt.text_ids
        if plan.compat:
            return reference.passages(ids, queries, plan.tokenizer, plan.max_num_rets)
        return reference.uncut_passages(ids, queries, plan.tokenizer)


async def show(
    found: Iterator[reference.Passage], content: ContentBuilder, plan: ReplyPlan
) -> AsyncIterator[ReplyEvent]:
    """Texts as parts of their own, each with the images of its query."""
    for ret_index, passage in enumerate(found):
        content.end_text()
        for delta in content.text(passage.text):
            yield delta
        if passage.query is not None:
            for part in await plan.image_parts(passage.query, ret_index):
                yield content.image(part)


def logprob_json(found: TokenLogprob, tokenizer: FromageTokenizer) -> Json:
    def named(id: int, value: float) -> Json:
        token = tokenizer.decode([id], skip_special=False)
        return {"token_id": id, "token": token, "logprob": value}

    return {
        **named(found.token_id, found.logprob),
        "top": [named(id, value) for id, value in found.top],
    }
