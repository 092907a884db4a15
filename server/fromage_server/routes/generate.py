"""POST /v1/generate."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from fromage_server.routes.answering import STREAM_RESPONSE, answer
from fromage_server.schema.answers import GenerateAnswer
from fromage_server.schema.requests import GenerateRequest
from fromage_server.state import State
from fromage_server.streaming import unless_gone

router = APIRouter(tags=["replies"])


@router.post("/v1/generate", response_model=GenerateAnswer, responses=STREAM_RESPONSE)
async def generate(body: GenerateRequest, state: State, request: Request) -> Response:
    """What the model makes of a raw interleaved prompt; no chat template."""
    reply = await unless_gone(request, state.service.generate(body))
    return await answer(state, request, reply, stream=body.stream, shape=_unchanged)


def _unchanged(folded: dict[str, Any]) -> dict[str, Any]:
    return folded
