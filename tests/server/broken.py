"""`fromage` whose server has routes that fail: `/broken` at once, `/torn` within its body.

python -m tests.server.broken serve ...
"""

import sys
from collections.abc import AsyncIterator
from typing import Any

from fastapi import FastAPI
from starlette.responses import StreamingResponse

from fromage_server import app as application
from fromage_server.cli import main


async def broken() -> None:
    raise ZeroDivisionError("nobody foresaw this")


async def torn() -> StreamingResponse:
    async def body() -> AsyncIterator[bytes]:
        yield b"half"
        raise ZeroDivisionError("nor this")

    return StreamingResponse(body())


def with_broken_routes(create: Any) -> Any:
    def create_app(*args: Any) -> FastAPI:
        app: FastAPI = create(*args)
        app.add_api_route("/broken", broken, methods=["GET", "POST"])
        app.add_api_route("/torn", torn)
        return app

    return create_app


if __name__ == "__main__":
    application.create_app = with_broken_routes(application.create_app)
    sys.exit(main())
