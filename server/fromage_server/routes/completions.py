"""POST /v1/chat/completions."""

from __future__ import annotations

import secrets
import time
from typing import Any, Final

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from fromage_server.addresses import public_base
from fromage_server.completions.completion import Completion, Style
from fromage_server.completions.history import to_chat
from fromage_server.errors import ApiError
from fromage_server.routes.models import check_model
from fromage_server.schema.completion_answers import STREAM_EXAMPLE, CompletionAnswer
from fromage_server.schema.completions import CompletionRequest
from fromage_server.settings import Settings
from fromage_server.state import State
from fromage_server.streaming import EventStreamResponse, unless_gone

router = APIRouter(tags=["OpenAI"])
_STREAM: Final[dict[int | str, dict[str, Any]]] = {
    200: {
        "description": "The completion; with `stream` its chunks, then `[DONE]`. A failure after "
        "the start is a chunk with `error`, and no `[DONE]`.",
        "content": {"text/event-stream": {"example": STREAM_EXAMPLE}},
    }
}


@router.post("/v1/chat/completions", response_model=CompletionAnswer, responses=_STREAM)
async def completions(body: CompletionRequest, state: State, request: Request) -> Response:
    """The next message of a conversation, in OpenAI's form; beside its fields those of /v1/chat."""
    check_model(body.model, state.service.model_name, param="model")
    try:
        replies = await unless_gone(request, state.service.choices(to_chat(body), body.n))
    except ApiError as error:
        raise _renamed(error, body) from None
    completion = Completion(replies, _style(body, state.settings, request))
    if body.stream:
        return EventStreamResponse(completion, state.settings.keepalive_s)
    return JSONResponse(await unless_gone(request, completion.whole()))


def _style(body: CompletionRequest, settings: Settings, request: Request) -> Style:
    return Style(
        id=f"chatcmpl-{secrets.token_hex(12)}",
        created=int(time.time()),
        model=body.model,
        delivery=body.image_delivery or settings.image_delivery,
        base=public_base(request, settings.public_url),
        with_logprobs=body.logprobs,
        include_usage=body.stream_options.include_usage,
    )


def _renamed(error: ApiError, body: CompletionRequest) -> ApiError:
    """By the name that the client used."""
    if body.max_completion_tokens is None:
        return error
    message = error.message.replace("max_tokens", "max_completion_tokens")
    param = error.param and error.param.replace("max_tokens", "max_completion_tokens")
    return ApiError(error.code, message, param=param, retry_after=error.retry_after)
