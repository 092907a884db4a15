"""What chat and generate share: a reply as JSON or as server-sent events."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

from fastapi import Request
from starlette.responses import JSONResponse, Response

from fromage_server.reply import Reply, whole
from fromage_server.state import ServerState
from fromage_server.streaming import EventStreamResponse, ReplyFrames, unless_gone

Json = dict[str, Any]
_STREAM_EXAMPLE: Final = """\
event: message.start
id: 0
data: {"id":"chat_8f3a","model":"demo"}

event: text.delta
id: 1
data: {"index":0,"text":"here is an elephant"}

event: image
id: 2
data: {"index":1,"type":"image","ret_index":0,"image":{"id":"b1946ac9","collection":"demo",\
"key":"scene-00042","url":"/v1/images/demo/b1946ac9","score":0.71,"width":240,"height":240,\
"metadata":{"caption":"an elephant on green"}},"alternatives":[]}

event: message.end
id: 3
data: {"finish_reason":"stop","usage":{"prompt_tokens":9,"completion_tokens":6,"total_tokens":15,\
"cached_tokens":0,"images_in":0,"images_out":1,"dropped_turns":0},"timings":{"queue_ms":0.2,\
"ttft_ms":9.1,"total_ms":31.8}}

"""
STREAM_RESPONSE: Final[dict[int | str, Json]] = {
    200: {
        "description": "The reply; with `stream` its events: message.start, then text.delta and "
        "image in order, then message.end, or error where it fails. token_ids and logprobs that "
        "are too long for one frame of 64 KiB come before the end, in message.tokens events.",
        "content": {"text/event-stream": {"example": _STREAM_EXAMPLE}},
    }
}


async def answer(
    state: ServerState,
    request: Request,
    reply: Reply,
    *,
    stream: bool,
    shape: Callable[[Json], Json],
) -> Response:
    if stream:
        return EventStreamResponse(ReplyFrames(reply), state.settings.keepalive_s)
    folded: Awaitable[Json] = unless_gone(request, whole(reply))
    return JSONResponse(shape(await folded))
