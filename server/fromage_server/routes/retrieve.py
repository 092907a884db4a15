"""POST /v1/retrieve."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from fromage_server.schema.answers import RetrieveAnswer
from fromage_server.schema.requests import RetrieveRequest
from fromage_server.state import State
from fromage_server.streaming import unless_gone

router = APIRouter(tags=["images"])


@router.post("/v1/retrieve", response_model=RetrieveAnswer)
async def retrieve(body: RetrieveRequest, state: State, request: Request) -> Response:
    """The images of a collection, ranked for an interleaved context that ends in [RET]."""
    return JSONResponse(await unless_gone(request, state.service.retrieve(body)))
