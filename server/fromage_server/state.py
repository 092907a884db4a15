"""What the lifespan builds and the routes use."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from fastapi import Depends, Request

from fromage_server.settings import Settings
from fromage_server.startup import Startup
from fromage_server.uploads import UploadStore
from fromage_server.workers import Workers

if TYPE_CHECKING:
    from fromage_server.service import Service


@dataclass(frozen=True)
class ServerState:
    settings: Settings
    uploads: UploadStore
    workers: Workers
    startup: Startup

    @property
    def service(self) -> Service:
        """Raises ApiError while it is not there."""
        return self.startup.service()


def _state(request: Request) -> ServerState:
    state = request.app.state.server
    assert isinstance(state, ServerState)
    return state


State = Annotated[ServerState, Depends(_state)]
