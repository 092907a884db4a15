from collections.abc import Iterator

import pytest
from fromage_client import Client

from tests.clients.scripted import ScriptedServer, serving


@pytest.fixture
def scripted() -> Iterator[ScriptedServer]:
    with serving() as server:
        yield server


@pytest.fixture
def client(scripted: ScriptedServer) -> Iterator[Client]:
    with Client(scripted.url, timeout=10) as client:
        yield client
