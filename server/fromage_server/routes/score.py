"""POST /v1/score."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from fromage_server.schema.answers import ScoreAnswer
from fromage_server.schema.requests import ScoreRequest
from fromage_server.state import State
from fromage_server.streaming import unless_gone

router = APIRouter(tags=["replies"])


@router.post("/v1/score", response_model=ScoreAnswer)
async def score(body: ScoreRequest, state: State, request: Request) -> Response:
    """How likely texts are after an interleaved context; without candidates, how likely its own
    text is."""
    return JSONResponse(await unless_gone(request, state.service.score(body)))
