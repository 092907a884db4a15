"""The application: its state is built in the lifespan, its model in the background."""

from __future__ import annotations

import importlib.metadata
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

from fastapi import FastAPI
from fastapi.routing import APIRoute

from fromage_server import failures
from fromage_server.followers import Followers
from fromage_server.limits import BodyLimits
from fromage_server.routes import (
    chat,
    collection_images,
    collections,
    completions,
    generate,
    health,
    images,
    models,
    page,
    retrieve,
    score,
    uploads,
)
from fromage_server.schema.answers import ErrorEnvelope
from fromage_server.settings import Settings
from fromage_server.startup import Loaded, Report, Startup
from fromage_server.state import ServerState
from fromage_server.uploads import UploadStore
from fromage_server.workers import Workers

_ROUTES: Final = (
    chat,
    completions,
    generate,
    retrieve,
    score,
    uploads,
    images,
    collections,
    collection_images,
    models,
    health,
    page,
)
_MIB: Final = 1024 * 1024
_FAILURES: Final[dict[int | str, dict[str, Any]]] = {
    "4XX": {"model": ErrorEnvelope, "description": "The request has to change, or come later."},
    "5XX": {"model": ErrorEnvelope, "description": "The server is not ready, or has failed."},
}


def create_app(
    settings: Settings, on_failure: Callable[[str], None], followers: Followers | None = None
) -> FastAPI:
    """``on_failure`` is called, in another thread, when the model or a collection cannot be
    loaded. ``followers`` hold the other parts of a divided model."""

    state = _build_state(settings, on_failure, followers)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        state.startup.start()
        try:
            yield
        finally:
            state.startup.stop()
            state.workers.stop()

    app = FastAPI(
        title="FROMAGe server",
        version=importlib.metadata.version("fromage-server"),
        description="Chat whose replies mix text with pictures of your own collection.",
        lifespan=lifespan,
        responses=_FAILURES,
        redirect_slashes=False,
    )
    app.state.server = state
    for module in _ROUTES:
        app.include_router(module.router)
    bodies = [
        (method, route.path_regex)
        for module in _ROUTES
        for route in module.router.routes
        if isinstance(route, APIRoute)
        for method in ("POST", "PATCH")
        if method in (route.methods or ())
    ]
    app.add_middleware(BodyLimits, max_bytes=settings.max_body_mib * _MIB, paths=bodies)
    failures.install(app)
    return app


def _build_state(
    settings: Settings, on_failure: Callable[[str], None], followers: Followers | None
) -> ServerState:
    workers = Workers()
    uploads = UploadStore(ttl_s=settings.upload_ttl_s, max_bytes=settings.upload_store_mib * _MIB)

    def load(report: Report) -> Loaded:
        # Imported here: torch takes seconds, and /healthz answers meanwhile.
        from fromage_server import runtime

        return runtime.load(settings, uploads, workers, report, followers)

    return ServerState(settings, uploads, workers, Startup(load, on_failure))
