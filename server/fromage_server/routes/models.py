"""GET /v1/models, in OpenAI's shape."""

from __future__ import annotations

from fastapi import APIRouter

from fromage_server.schema.answers import ModelCard, ModelList
from fromage_server.state import State

router = APIRouter(tags=["server"])


@router.get("/v1/models")
async def models(state: State) -> ModelList:
    """The one model that this server runs."""
    service = state.service
    return ModelList(
        data=[ModelCard(id=service.model_name, created=service.created, bundle=service.bundle_card)]
    )
