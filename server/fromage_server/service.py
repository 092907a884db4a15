"""What the endpoints do: requests to engine requests, and back."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from fromage_server import reference
from fromage_server.compose import Composer
from fromage_server.curator import Curator
from fromage_server.engine.request import GenerationRequest, SamplingParams, ScoringRequest
from fromage_server.engine_stream import EngineStream
from fromage_server.finder import DistinctFinder, Finder, NothingToFind, ReferenceFinder
from fromage_server.gallery import Gallery, Scope
from fromage_server.intake import Intake
from fromage_server.prompt import Prompt
from fromage_server.ranking import Ranker
from fromage_server.reply import Reply
from fromage_server.running import LiveReply, PromptReply, ReferenceReply, ReplyPlan
from fromage_server.schema.answers import BundleCard
from fromage_server.schema.options import SEEDS, GenerationOptions
from fromage_server.schema.parts import ImagePart, ImageUrlPart, Part
from fromage_server.schema.requests import (
    ChatRequest,
    GenerateRequest,
    RetrieveRequest,
    ScoreRequest,
    parts_of,
)
from fromage_server.scoring import Scorer
from fromage_server.workers import Preparing, Workers

if TYPE_CHECKING:
    from fromage_server.engine import Engine, EngineConfig, EngineStats
    from fromage_weights.tokenizer import FromageTokenizer

Json = dict[str, Any]


class Service:
    """One model, its engine and the collections. Methods run on the event loop; what is heavy goes
    to the workers."""

    def __init__(
        self,
        *,
        model_name: str,
        bundle_card: BundleCard,
        engine: Engine,
        limits: EngineConfig,
        tokenizer: FromageTokenizer,
        stop: Sequence[str],
        stop_after_ret: bool,
        composer: Composer,
        gallery: Gallery,
        curator: Curator,
        workers: Workers,
    ) -> None:
        self.model_name = model_name
        self.bundle_card = bundle_card
        self.created = int(time.time())
        self.gallery = gallery
        self.curator = curator
        self._tokenizer = tokenizer
        self._stop = tuple(stop)
        self._stop_after_ret = stop_after_ret
        self._composer = composer
        self._workers = workers
        self.intake = Intake(engine, limits, workers)
        self._ranker = Ranker(self.intake, composer, tokenizer, gallery, workers)
        self._scorer = Scorer(self.intake, composer, workers)

    @property
    def alive(self) -> bool:
        return self.intake.alive

    def stats(self) -> EngineStats:
        return self.intake.stats()

    async def chat(self, body: ChatRequest) -> Reply:
        """A reply on its way. Raises ApiError for what is known to be wrong before it starts."""
        [reply] = await self.choices(body, 1)
        return reply

    async def choices(self, body: ChatRequest, n: int) -> list[Reply]:
        """``n`` replies to the same messages, sampled with the seed and those after it."""
        return await self.intake.prepared_together("chat", n, self._start_chat, body)

    async def generate(self, body: GenerateRequest) -> Reply:
        start = self._start_generation if body.max_tokens != 0 else self._start_prompt_scan
        return await self.intake.prepared("gen", start, body)

    async def retrieve(self, body: RetrieveRequest) -> Json:
        return await self._ranker.retrieve(body)

    async def score(self, body: ScoreRequest) -> Json:
        return await self._scorer.score(body)

    def _start_chat(
        self, body: ChatRequest, streams: Sequence[EngineStream]
    ) -> Preparing[list[Reply]]:
        scope = self.gallery.scope(body)
        prompt = self._composer.chat(body)
        params = self._params(body, self._composer.max_tokens(prompt, body.max_tokens), scope)
        shown = shown_ids(parts_of(body.messages), scope) if body.exclude_shown else set()
        segments = yield from self._composer.segments(prompt)
        replies: list[Reply] = []
        for i, stream in enumerate(streams):
            plan = self._plan(body, stream, prompt, _finder(body, scope, shown))
            seed = None if params.seed is None else (params.seed + i) % SEEDS
            stream.submit(GenerationRequest(stream.id, segments, replace(params, seed=seed)))
            replies.append(LiveReply(plan, stream, trim_start=True))
        return replies

    def _start_generation(self, body: GenerateRequest, stream: EngineStream) -> Preparing[Reply]:
        prompt, scope, plan = self._generation(body, stream)
        params = self._params(body, self._composer.max_tokens(prompt, body.max_tokens), scope)
        segments = yield from self._composer.segments(prompt)
        stream.submit(GenerationRequest(stream.id, segments, params))
        return ReferenceReply(plan, stream) if body.reference_compat else LiveReply(plan, stream)

    def _start_prompt_scan(self, body: GenerateRequest, stream: EngineStream) -> Preparing[Reply]:
        """`max_tokens: 0`. The reference counts a [RET]'s position over the text alone, although
        its embeddings include the images' rows."""
        prompt, _, plan = self._generation(body, stream)
        self._composer.max_tokens(prompt, 0)
        ret = self._tokenizer.ret_token_id
        places = tuple(i for i, id in enumerate(prompt.text_ids) if id == ret)
        positions = places if body.reference_compat else prompt.positions_of(ret)
        used = body.max_num_rets
        segments = yield from self._composer.segments(prompt)
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
        return prompt, scope, self._plan(body, stream, prompt, finder)

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
            logprobs=body.logprobs,
            compat=raw is not None and raw.reference_compat,
        )

    def _plan(
        self,
        body: ChatRequest | GenerateRequest,
        stream: EngineStream,
        prompt: Prompt,
        finder: Finder,
    ) -> ReplyPlan:
        raw = body if isinstance(body, GenerateRequest) else None
        return ReplyPlan(
            id=stream.id,
            model=self.model_name,
            prompt=prompt,
            tokenizer=self._tokenizer,
            finder=finder,
            workers=self._workers,
            max_num_rets=body.max_num_rets,
            inline_images=body.image_format == "base64",
            with_token_ids=raw is not None and raw.return_token_ids,
            with_logprobs=body.logprobs is not None,
            with_queries=raw is not None and raw.return_query_embedding,
            compat=raw is not None and raw.reference_compat,
        )


def shown_ids(parts: Sequence[Part], scope: Scope | None) -> set[str]:
    """Ids of the collection that is searched, among the images that the parts refer to."""
    if scope is None:
        return set()
    refs = (part.ref for part in parts if isinstance(part, ImagePart | ImageUrlPart))
    return {
        ref.id
        for ref in refs
        if ref is not None and ref.id is not None and ref.collection == scope.name
    }


def _finder(
    body: GenerationOptions, scope: Scope | None, shown: set[str], *, compat: bool = False
) -> Finder:
    if scope is None:
        return NothingToFind()
    if compat:
        return ReferenceFinder(scope, body.max_img_per_ret)
    return DistinctFinder(scope, body.max_img_per_ret, shown)
