"""Whoever stops listening stops the server: seen in the engine's counts, for both clients."""

import asyncio
import gc
from collections.abc import Iterator
from typing import Any

import pytest

from fromage_client import AsyncClient, Client
from fromage_server.settings import Settings
from tests.clients.faces import FACES, client_of
from tests.server import tiny
from tests.server.local import Local, local_server

LONG: dict[str, Any] = {"max_tokens": 4000, "ignore_eos": True, "max_num_rets": 0}


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Local]:
    work = tmp_path_factory.mktemp("cancelling")
    tiny.write_bundle(work / "bundle")
    settings = Settings(bundle=str(work / "bundle"), device="cpu", max_batch=2, cache_dir=work)
    with local_server(settings) as server:
        yield server


@pytest.fixture
def cancels(local: Local) -> Iterator[None]:
    """The test has one reply cancelled, long before its end."""
    local.until_idle()
    before = local.service.stats().counts
    yield
    local.until(lambda: local.service.stats().counts.cancelled == before.cancelled + 1)
    local.until_idle()
    assert local.service.stats().counts.generated_tokens - before.generated_tokens < 4000


@pytest.fixture(params=FACES)
def client(request: pytest.FixtureRequest, local: Local) -> Iterator[Client]:
    with client_of(request.param, local.url) as client:
        yield client


@pytest.mark.usefixtures("cancels")
def test_breaking_the_loop(client: Client) -> None:
    for _ in client.stream_generate("tell me", **LONG):
        break


@pytest.mark.usefixtures("cancels")
def test_leaving_the_with(client: Client, local: Local) -> None:
    with client.stream_generate("tell me", **LONG) as events:
        first = iter(events)
        next(first)
        local.until(lambda: local.service.stats().running == 1)


@pytest.mark.usefixtures("cancels")
def test_an_error_in_the_loop(client: Client) -> None:
    with pytest.raises(ZeroDivisionError):  # noqa: PT012
        for _ in client.stream_generate("tell me", **LONG):
            _ = 1 / 0


@pytest.mark.usefixtures("cancels")
def test_a_conversation_that_is_stopped(client: Client) -> None:
    with client.conversation(**LONG).stream("tell me") as events:
        first = iter(events)
        next(first)


@pytest.mark.usefixtures("cancels")
def test_closing_the_client(local: Local) -> None:
    with Client(local.url) as client:
        events = iter(client.stream_generate("tell me", **LONG))
        next(events)
    local.until_idle()


@pytest.mark.usefixtures("cancels")
async def test_cancelling_a_task(local: Local) -> None:
    async with AsyncClient(local.url) as client:
        waiting = asyncio.ensure_future(client.generate("tell me", **LONG))
        await asyncio.to_thread(local.until, lambda: local.service.stats().running == 1)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting


@pytest.mark.usefixtures("cancels")
async def test_breaking_the_async_loop_for_good(local: Local) -> None:
    """Without `async with`, the event loop closes what nobody holds any more."""
    async with AsyncClient(local.url) as client:
        async for _ in client.stream_generate("tell me", **LONG):
            break
        gc.collect()
        await asyncio.to_thread(local.until_idle)
