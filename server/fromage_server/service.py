"""What the endpoints do: requests to engine requests, and back."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from fromage_server import reference
from fromage_server.compose import Composer
from fromage_server.engine.events import ScoreEvent
from fromage_server.engine.request import GenerationRequest, SamplingParams, ScoringRequest
from fromage_server.engine_stream import EngineStream, queue_full
from fromage_server.errors import ApiError
from fromage_server.finder import (
    DistinctFinder,
    Finder,
    NothingToFind,
    Query,
    ReferenceFinder,
    best_readable,
)
from fromage_server.gallery import Gallery, Scope
from fromage_server.prompt import Prompt
from fromage_server.reply import Reply
from fromage_server.running import LiveReply, PromptReply, ReferenceReply, ReplyPlan
from fromage_server.schema.options import GenerationOptions
from fromage_server.schema.parts import ImagePart, Part
from fromage_server.schema.requests import (
    ChatRequest,
    GenerateRequest,
    RetrieveRequest,
    ScoreRequest,
    parts_of,
)
from fromage_server.workers import Workers

if TYPE_CHECKING:
    from fromage_server.engine import Engine, EngineConfig, EngineStats
    from fromage_weights.tokenizer import FromageTokenizer

Json = dict[str, Any]
Body = TypeVar("Body")
Started = TypeVar("Started")


class Service:
    """One model, its engine and the collections. Methods run on the event loop; what is heavy goes
    to the workers."""

    def __init__(
        self,
        *,
        model_name: str,
        engine: Engine,
        limits: EngineConfig,
        tokenizer: FromageTokenizer,
        stop: Sequence[str],
        stop_after_ret: bool,
        composer: Composer,
        gallery: Gallery,
        workers: Workers,
    ) -> None:
        self.model_name = model_name
        self.created = int(time.time())
        self.gallery = gallery
        self._engine = engine
        self._limits = limits
        self._tokenizer = tokenizer
        self._stop = tuple(stop)
        self._stop_after_ret = stop_after_ret
        self._composer = composer
        self._workers = workers
        self._preparing = 0

    @property
    def alive(self) -> bool:
        return self._engine.alive

    def stats(self) -> EngineStats:
        return self._engine.stats()

    async def chat(self, body: ChatRequest) -> Reply:
        """A reply on its way. Raises ApiError for what is known to be wrong before it starts."""
        return await self._prepared("chat", self._start_chat, body)

    async def generate(self, body: GenerateRequest) -> Reply:
        start = self._start_generation if body.max_tokens != 0 else self._start_prompt_scan
        return await self._prepared("gen", start, body)

    async def retrieve(self, body: RetrieveRequest) -> Json:
        scope, stream = await self._prepared("ret", self._start_retrieval, body)
        query: Query = (await stream.score()).queries[0]
        images = await self._workers.search(_ranked, scope, query, body)
        embedding = {"query_embedding": query.tolist()} if body.return_query_embedding else {}
        return {"images": images, **embedding}

    async def score(self, body: ScoreRequest) -> Json:
        with self._place():
            jobs = await self._workers.prepare(self._scoring_jobs, body)
        # One at a time: a long list of candidates leaves room for others in the queue.
        return {"scores": [await self._score(*job) for job in jobs]}

    async def _prepared(
        self, prefix: str, start: Callable[[Body, EngineStream], Started], body: Body
    ) -> Started:
        """Prepare a request and hand it to the engine; a caller who leaves takes it along."""
        with self._place():
            stream = EngineStream(self._engine, _new_id(prefix))
            try:
                return await self._workers.prepare(start, body, stream)
            except BaseException:
                stream.cancel()
                raise

    @contextmanager
    def _place(self) -> Iterator[None]:
        """A place in the queue, taken before any work is done and given back when the engine has
        the request: what is being prepared waits, too."""
        self._check_room()
        self._preparing += 1
        try:
            yield
        finally:
            self._preparing -= 1

    def _check_room(self) -> None:
        """A full queue is noticed before any work is done."""
        if not self._engine.alive:
            raise ApiError("engine_dead", "the engine has stopped; the server must be restarted")
        stats = self.stats()
        # Who has a free place coming does not wait: as many more may come at once.
        free = self._limits.max_batch - stats.running
        if stats.waiting + self._preparing >= self._limits.max_queue + free:
            raise queue_full(f"{self._limits.max_queue} requests are waiting already; try again")

    def _start_chat(self, body: ChatRequest, stream: EngineStream) -> Reply:
        scope = self.gallery.scope(body)
        prompt = self._composer.chat(body)
        params = self._params(body, self._composer.max_tokens(prompt, body.max_tokens), scope)
        shown = shown_ids(parts_of(body.messages), scope) if body.exclude_shown else set()
        plan = self._plan(body, stream, prompt, scope, finder=_finder(body, scope, shown))
        self._submit(stream, prompt, params)
        return LiveReply(plan, stream, trim_start=True)

    def _start_generation(self, body: GenerateRequest, stream: EngineStream) -> Reply:
        prompt, scope, plan = self._generation(body, stream)
        params = self._params(body, self._composer.max_tokens(prompt, body.max_tokens), scope)
        self._submit(stream, prompt, params)
        return ReferenceReply(plan, stream) if body.reference_compat else LiveReply(plan, stream)

    def _start_prompt_scan(self, body: GenerateRequest, stream: EngineStream) -> Reply:
        """`max_tokens: 0`. The reference counts a [RET]'s position over the text alone, although
        its embeddings include the images' rows."""
        prompt, _, plan = self._generation(body, stream)
        self._composer.max_tokens(prompt, 0)
        ret = self._tokenizer.ret_token_id
        places = tuple(i for i, id in enumerate(prompt.text_ids) if id == ret)
        positions = places if body.reference_compat else prompt.positions_of(ret)
        used = body.max_num_rets
        segments = self._composer.segments(prompt)
        stream.submit(ScoringRequest(stream.id, segments, query_positions=positions[:used]))
        return PromptReply(plan, stream, places[:used])

    def _generation(
        self, body: GenerateRequest, stream: EngineStream
    ) -> tuple[Prompt, Scope | None, ReplyPlan]:
        if body.reference_compat:
            reference.check_options(body)
        scope = self.gallery.scope(body)
        prompt = self._composer.raw(body.prompt)
        reference.check_prompt(body, prompt)
        shown = shown_ids(body.prompt, scope) if body.exclude_shown else set()
        finder = _finder(body, scope, shown, compat=body.reference_compat)
        return prompt, scope, self._plan(body, stream, prompt, scope, finder=finder)

    def _submit(self, stream: EngineStream, prompt: Prompt, params: SamplingParams) -> None:
        stream.submit(GenerationRequest(stream.id, self._composer.segments(prompt), params))

    def _params(
        self, body: ChatRequest | GenerateRequest, max_tokens: int, scope: Scope | None
    ) -> SamplingParams:
        raw = body if isinstance(body, GenerateRequest) else None
        return SamplingParams(
            max_tokens=max_tokens,
            temperature=body.temperature,
            top_p=body.top_p,
            top_k=body.top_k,
            seed=body.seed,
            stop=(*(self._stop if raw is None else ()), *body.stop),
            stop_after_ret=self._stop_after_ret and raw is None,
            ignore_eos=body.ignore_eos,
            ret_scale_factor=body.ret_scale_factor,
            # Without a collection there is nothing that [RET] could bring.
            max_num_rets=body.max_num_rets if scope is not None else 0,
            min_word_tokens=body.min_word_tokens,
            logprobs=raw.logprobs if raw is not None else None,
            compat=raw is not None and raw.reference_compat,
        )

    def _plan(
        self,
        body: ChatRequest | GenerateRequest,
        stream: EngineStream,
        prompt: Prompt,
        scope: Scope | None,
        *,
        finder: Finder,
    ) -> ReplyPlan:
        raw = body if isinstance(body, GenerateRequest) else None
        return ReplyPlan(
            id=stream.id,
            model=self.model_name,
            prompt=prompt,
            tokenizer=self._tokenizer,
            finder=finder,
            scope=scope,
            workers=self._workers,
            max_num_rets=body.max_num_rets,
            inline_images=body.image_format == "base64",
            with_token_ids=raw is not None and raw.return_token_ids,
            with_logprobs=raw is not None and raw.logprobs is not None,
            with_queries=raw is not None and raw.return_query_embedding,
            compat=raw is not None and raw.reference_compat,
        )

    def _start_retrieval(
        self, body: RetrieveRequest, stream: EngineStream
    ) -> tuple[Scope, EngineStream]:
        scope = self.gallery.scope(body)
        if scope is None:
            raise ApiError(
                "collection_not_found",
                "this server has no collections; start it with --collection NAME=DIR",
                param="collection",
            )
        prompt = self._composer.query(body.prompt)
        self._composer.max_tokens(prompt, 0)
        last = prompt.positions_of(self._tokenizer.ret_token_id)[-1]
        segments = self._composer.segments(prompt)
        stream.submit(ScoringRequest(stream.id, segments, query_positions=(last,)))
        return scope, stream

    def _scoring_jobs(self, body: ScoreRequest) -> list[tuple[ScoringRequest, str]]:
        """What to score, each with the field it comes from."""
        prompt = self._composer.raw(body.prompt)
        reference.check_prompt(body, prompt)
        self._composer.max_tokens(prompt, 0)
        segments = self._composer.segments(prompt)
        if body.candidates is None:
            return [(ScoringRequest(_new_id("score"), segments, score_from=0), "prompt")]
        compat = body.reference_compat
        return [
            (
                ScoringRequest(
                    _new_id("score"),
                    (*segments, self._composer.continuation(text, begin=compat, param=param)),
                    score_from=prompt.tokens,
                    shifted=not compat,
                ),
                param,
            )
            for param, text in ((f"candidates.{i}", text) for i, text in enumerate(body.candidates))
        ]

    async def _score(self, request: ScoringRequest, param: str) -> Json:
        stream = EngineStream(self._engine, request.id)
        await self._workers.prepare(stream.submit, request, param=param)
        return score_json(await stream.score(), param)


def _new_id(prefix: str) -> str:
    return f"{prefix}_{secrets.token_hex(12)}"


def score_json(event: ScoreEvent, param: str) -> Json:
    """Raises ApiError where there was nothing to score."""
    tokens = len(event.logprobs)
    if tokens == 0:
        raise ApiError(
            "invalid_value",
            f"{param} has no token that anything predicts; send a longer text",
            param=param,
        )
    total = float(sum(event.logprobs))
    return {"log_likelihood": total, "mean_log_likelihood": total / tokens, "tokens": tokens}


def shown_ids(parts: Sequence[Part], scope: Scope | None) -> set[str]:
    """Ids of the collection that is searched, among the images that the parts refer to."""
    return {
        part.image.id
        for part in parts
        if isinstance(part, ImagePart)
        and scope is not None
        and part.image.collection == scope.name
        and part.image.id is not None
    }


def _finder(
    body: GenerationOptions, scope: Scope | None, shown: set[str], *, compat: bool = False
) -> Finder:
    if scope is None:
        return NothingToFind()
    if compat:
        return ReferenceFinder(scope, body.max_img_per_ret)
    return DistinctFinder(scope, body.max_img_per_ret, shown)


def _ranked(scope: Scope, query: Query, body: RetrieveRequest) -> list[Json]:
    hits = best_readable(scope, query, body.k, body.exclude)
    return [scope.describe(hit) for hit in hits]
