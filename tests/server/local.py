"""A real server in a thread of this process, whose engine can be looked at."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import uvicorn

from fromage_server.app import create_app
from fromage_server.service import Service
from fromage_server.settings import Settings
from fromage_server.state import ServerState
from tests.server.process import free_port


@dataclass(frozen=True)
class Local:
    url: str
    service: Service
    shut_down: Callable[[], None]

    def until(self, holds: Callable[[], bool], seconds: float = 120) -> None:
        """Waits for something about the engine to become true."""
        end = time.monotonic() + seconds
        while not holds():
            assert time.monotonic() < end, f"still not: {self.service.stats()}"
            time.sleep(0.02)

    def until_idle(self) -> None:
        self.until(lambda: self.service.stats().running == self.service.stats().waiting == 0)


@contextmanager
def local_server(settings: Settings) -> Iterator[Local]:
    failures: list[str] = []
    app = create_app(settings, failures.append)
    port = free_port()
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_config=None))
    thread = threading.Thread(target=server.run)

    def shut_down() -> None:
        """What SIGTERM does."""
        server.should_exit = True

    thread.start()
    try:
        while not server.started:
            time.sleep(0.01)
        state: ServerState = app.state.server
        state.startup.join()
        assert not failures, failures
        yield Local(f"http://127.0.0.1:{port}", state.service, shut_down)
    finally:
        shut_down()
        thread.join()
