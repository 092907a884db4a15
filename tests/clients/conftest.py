import random
from collections.abc import Iterator
from io import BytesIO

import pytest
from fromage_client import Client
from PIL import Image

from tests.clients.scripted import ScriptedServer, serving


@pytest.fixture
def scripted() -> Iterator[ScriptedServer]:
    with serving() as server:
        yield server


@pytest.fixture
def client(scripted: ScriptedServer) -> Iterator[Client]:
    with Client(scripted.url, timeout=10) as client:
        yield client


@pytest.fixture(scope="session")
def png() -> bytes:
    """A red square with some noise, so that it takes more than one kitty chunk."""
    pixels = bytearray(bytes((200, 30, 30)) * 64 * 64)
    pixels[-64 * 32 * 3 :] = random.Random(0).randbytes(64 * 32 * 3)
    out = BytesIO()
    Image.frombytes("RGB", (64, 64), bytes(pixels)).save(out, "PNG")
    return out.getvalue()
