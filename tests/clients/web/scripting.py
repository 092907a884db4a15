"""The page, served by a server whose answers are fixed in advance: slow, broken or hostile ones."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import PurePath
from typing import Any

from fromage_server.app import create_app
from fromage_server.routes.page import HEADERS, TYPES
from fromage_server.settings import Settings
from fromage_web import START, static_files
from tests.clients.scripted import Answer, ScriptedServer, frame, serving

JSON = {"content-type": "application/json"}
CARD = {"name": "demo", "size": 3, "dim": 8, "default": True, "writable": True, "droppable": False}
MODEL: dict[str, Any] = {
    "id": "scripted",
    "object": "model",
    "created": 1_795_000_000,
    "owned_by": "fromage",
}
MODEL["bundle"] = {"language_model": "./lm", "soft_tokens": 4, "context": 2048}


def answer(status: int = 200, **content: Any) -> Answer:
    return Answer((json.dumps(content).encode(),), status=status, headers=JSON)


def failure(status: int, code: str, message: str, param: str | None = None) -> Answer:
    return answer(status, error=envelope(code, message, param))


def envelope(code: str, message: str, param: str | None = None) -> dict[str, Any]:
    return {"type": "unavailable_error", "code": code, "message": message, "param": param}


def error_frame(code: str, message: str) -> bytes:
    return frame("error", error=envelope(code, message))


def deltas(*texts: str) -> list[bytes]:
    return [frame("text.delta", index=0, text=text) for text in texts]


@cache
def _openapi() -> dict[str, Any]:
    """The real one: the page takes the options' ranges from it."""
    return create_app(Settings(), on_failure=print).openapi()


@contextmanager
def scripted_page() -> Iterator[ScriptedServer]:
    with serving() as server:
        for name, file in static_files().items():
            headers = {**HEADERS, "content-type": TYPES[PurePath(name).suffix]}
            path = "/" if name == START else f"/page/{name}"
            server.script[path] = [Answer((file.read_bytes(),), headers=headers)]
        server.script["/openapi.json"] = [answer(**_openapi())]
        server.script["/v1/models"] = [answer(object="list", data=[MODEL])]
        server.script["/v1/collections"] = [answer(collections=[CARD])]
        server.script["/v1/retrieve"] = [answer(images=[])]
        yield server
