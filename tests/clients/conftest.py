import asyncio
import random
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

from fromage_client import AsyncClient, Client
from fromage_server.cli import main
from tests.clients.faces import FACES, Face, client_of
from tests.clients.scripted import ScriptedServer, serving
from tests.server.process import start


@pytest.fixture
def scripted() -> Iterator[ScriptedServer]:
    with serving() as server:
        yield server


@pytest.fixture(params=FACES)
def face(request: pytest.FixtureRequest) -> Face:
    """Which of the two clients."""
    return request.param  # type: ignore[no-any-return]


@pytest.fixture
def client(face: Face, scripted: ScriptedServer) -> Iterator[Client]:
    with client_of(face, scripted.url, timeout=10) as client:
        yield client


@pytest.fixture(scope="session")
def png() -> bytes:
    """A red square with some noise, so that it takes more than one kitty chunk."""
    pixels = bytearray(bytes((200, 30, 30)) * 64 * 64)
    pixels[-64 * 32 * 3 :] = random.Random(0).randbytes(64 * 32 * 3)
    out = BytesIO()
    Image.frombytes("RGB", (64, 64), bytes(pixels)).save(out, "PNG")
    return out.getvalue()


@dataclass(frozen=True)
class Started:
    """A real server, and what each client was told while it waited for it."""

    url: str
    told: tuple[list[str], list[str]]


@pytest.fixture(scope="session")
def started(reference_any: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Started]:
    """With a tiny model and its collection `cc3m`. Both clients waited until it was ready."""
    work = tmp_path_factory.mktemp("client_server")
    bundle, collection = str(work / "bundle"), str(work / "collection")
    model, hub = (str(reference_any / "variant_b" / name) for name in ("model_dir", "hub"))
    assert main(["weights", "import", model, bundle, "--lm", hub, "--vision", hub]) == 0
    importing = ["index", "import-reference", model, "--images", str(reference_any / "images")]
    assert main([*importing, "--collection", collection, "--bundle", bundle]) == 0
    with start(work, "--bundle", bundle, "--collection", f"cc3m={collection}") as (_, url):
        yield Started(url, asyncio.run(_wait(url)))


async def _wait(url: str) -> tuple[list[str], list[str]]:
    blocking: list[str] = []
    other: list[str] = []
    with Client(url) as client:
        waiting = asyncio.to_thread(client.wait_until_ready, 300, blocking.append)
        async with AsyncClient(url) as twin:
            await asyncio.gather(waiting, twin.wait_until_ready(300, other.append))
    return blocking, other


@pytest.fixture(scope="session")
def server(started: Started) -> str:
    """The real server's address."""
    return started.url
