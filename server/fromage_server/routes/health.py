"""GET /healthz and /readyz."""

from __future__ import annotations

from fastapi import APIRouter

from fromage_server.errors import ApiError
from fromage_server.schema.answers import Health
from fromage_server.state import State

router = APIRouter(tags=["server"])


@router.head("/healthz", include_in_schema=False)
@router.get("/healthz")
async def healthz(state: State) -> Health:
    """200 as long as the process can do its work, from its start on; 503 when the engine died."""
    if state.startup.engine_died:
        raise ApiError("engine_dead", "the engine has stopped; the server must be restarted")
    return Health(status="ok")


@router.head("/readyz", include_in_schema=False)
@router.get("/readyz")
async def readyz(state: State) -> Health:
    """200 when requests are answered; 503 with what is being loaded until then."""
    _ = state.service
    return Health(status="ready")
