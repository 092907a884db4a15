"""`/v1/score`: how likely texts are after a context."""

from __future__ import annotations

from typing import Any

from fromage_server import reference
from fromage_server.compose import Composer
from fromage_server.engine.events import ScoreEvent
from fromage_server.engine.request import ScoringRequest
from fromage_server.errors import ApiError
from fromage_server.intake import Intake, new_id
from fromage_server.schema.requests import ScoreRequest
from fromage_server.workers import Preparing, Workers

Json = dict[str, Any]


class Scorer:
    def __init__(self, intake: Intake, composer: Composer, workers: Workers) -> None:
        self._intake = intake
        self._composer = composer
        self._workers = workers

    async def score(self, body: ScoreRequest) -> Json:
        with self._intake.place():
            jobs = await self._workers.compose(self._jobs, body)
        # One at a time: a long list of candidates leaves room for others in the queue.
        return {"scores": [await self._score(*job) for job in jobs]}

    def _jobs(self, body: ScoreRequest) -> Preparing[list[tuple[ScoringRequest, str]]]:
        """What to score, each with the field it comes from."""
        prompt = self._composer.raw(body.prompt)
        reference.check_prompt(body, prompt)
        self._composer.max_tokens(prompt, 0)
        segments = yield from self._composer.segments(prompt)
        if body.candidates is None:
            return [(ScoringRequest(new_id("score"), segments, score_from=0), "prompt")]
        compat = body.reference_compat
        return [
            (
                ScoringRequest(
                    new_id("score"),
                    (*segments, self._composer.continuation(text, begin=compat, param=param)),
                    score_from=prompt.tokens,
                    shifted=not compat,
                ),
                param,
            )
            for param, text in ((f"candidates.{i}", text) for i, text in enumerate(body.candidates))
        ]

    async def _score(self, request: ScoringRequest, param: str) -> Json:
        stream = self._intake.stream(request.id)
        await self._workers.prepare(stream.submit, request, param=param)
        return score_json(await stream.score(), param)


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
