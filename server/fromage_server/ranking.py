"""`/v1/retrieve`: a collection's images, ranked for a context."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fromage_server.compose import Composer
from fromage_server.engine.request import ScoringRequest
from fromage_server.engine_stream import EngineStream
from fromage_server.errors import ApiError
from fromage_server.finder import best_readable
from fromage_server.gallery import Gallery, Scope
from fromage_server.intake import Intake
from fromage_server.schema.requests import RetrieveRequest
from fromage_server.searches import Query, Searching
from fromage_server.workers import Preparing, Workers

if TYPE_CHECKING:
    from fromage_weights.tokenizer import FromageTokenizer

Json = dict[str, Any]


class Ranker:
    def __init__(
        self,
        intake: Intake,
        composer: Composer,
        tokenizer: FromageTokenizer,
        gallery: Gallery,
        workers: Workers,
    ) -> None:
        self._intake = intake
        self._composer = composer
        self._tokenizer = tokenizer
        self._gallery = gallery
        self._workers = workers

    async def retrieve(self, body: RetrieveRequest) -> Json:
        scope, stream = await self._intake.prepared("ret", self._start, body)
        query: Query = (await stream.score()).queries[0]
        images = await self._workers.search(_ranked(scope, query, body))
        embedding = {"query_embedding": query.tolist()} if body.return_query_embedding else {}
        return {"images": images, **embedding}

    def _start(
        self, body: RetrieveRequest, stream: EngineStream
    ) -> Preparing[tuple[Scope, EngineStream]]:
        scope = self._gallery.scope(body)
        if scope is None:
            raise ApiError(
                "collection_not_found",
                "this server has no collections; start it with --collection NAME=DIR, or make one "
                "with POST /v1/collections",
                param="collection",
            )
        prompt = self._composer.query(body.prompt)
        self._composer.max_tokens(prompt, 0)
        last = prompt.positions_of(self._tokenizer.ret_token_id)[-1]
        segments = yield from self._composer.segments(prompt)
        stream.submit(ScoringRequest(stream.id, segments, query_positions=(last,)))
        return scope, stream


def _ranked(scope: Scope, query: Query, body: RetrieveRequest) -> Searching[list[Json]]:
    found = yield from best_readable(scope, query, body.k, body.exclude)
    return [found.scope.describe(hit) for hit in found.hits]
