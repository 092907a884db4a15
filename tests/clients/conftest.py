import random
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

from fromage_client import Client
from fromage_server.cli import main
from tests.clients.scripted import ScriptedServer, serving
from tests.server.process import start, wait_for


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


@pytest.fixture(scope="session")
def server(reference_any: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of the real server, with a tiny model and its collection `cc3m`."""
    work = tmp_path_factory.mktemp("client_server")
    bundle, collection = str(work / "bundle"), str(work / "collection")
    model, hub = (str(reference_any / "variant_b" / name) for name in ("model_dir", "hub"))
    assert main(["weights", "import", model, bundle, "--lm", hub, "--vision", hub]) == 0
    importing = ["index", "import-reference", model, "--images", str(reference_any / "images")]
    assert main([*importing, "--collection", collection, "--bundle", bundle]) == 0
    with start(work, "--bundle", bundle, "--collection", f"cc3m={collection}") as (process, url):
        wait_for(process, url, "/readyz")
        yield url
