"""POST /v1/chat."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from fromage_server.routes.answering import STREAM_RESPONSE, answer
from fromage_server.schema.answers import ChatAnswer
from fromage_server.schema.requests import ChatRequest
from fromage_server.state import State
from fromage_server.streaming import unless_gone

router = APIRouter(tags=["replies"])


@router.post("/v1/chat", response_model=ChatAnswer, responses=STREAM_RESPONSE)
async def chat(body: ChatRequest, state: State, request: Request) -> Response:
    """The next message of a conversation: text, and pictures where the model shows them."""
    reply = await unless_gone(request, state.service.chat(body))
    return await answer(state, request, reply, stream=body.stream, shape=_as_message)


def _as_message(folded: dict[str, Any]) -> dict[str, Any]:
    message = {"role": "assistant", "content": folded.pop("content")}
    return {"id": folded.pop("id"), "model": folded.pop("model"), "message": message, **folded}
