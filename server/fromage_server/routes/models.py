"""GET /v1/models, in OpenAI's shape."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastapi import APIRouter

from fromage_server.errors import ApiError
from fromage_server.schema.answers import ModelCard, ModelList
from fromage_server.state import State

if TYPE_CHECKING:
    from fromage_server.service import Service

router = APIRouter(tags=["OpenAI"])


@router.get("/v1/models")
async def models(state: State) -> ModelList:
    """The one model that this server runs."""
    return ModelList(data=[_card(state.service)])


@router.get("/v1/models/{id:path}")
async def model(id: str, state: State) -> ModelCard:
    """The same, by its name."""
    check_model(id, state.service.model_name)
    return _card(state.service)


def check_model(asked: str, served: str, *, param: str | None = None) -> None:
    """Raises ApiError for another name than the served model's."""
    if asked != served:
        raise ApiError(
            "model_not_found",
            f"there is no model {asked[:80]!r} here; this server runs {served!r}: send that as the "
            "model, or start a server with --bundle for another",
            param=param,
        )


def _card(service: Service) -> ModelCard:
    return ModelCard(id=service.model_name, created=service.created, bundle=service.bundle_card)
