"""The way into the engine: a place in the queue, preparation in a worker thread, submission."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

from fromage_server.engine_stream import Arrivals, EngineStream, queue_full
from fromage_server.errors import ApiError
from fromage_server.workers import Preparing, Workers

if TYPE_CHECKING:
    from fromage_server.engine import Engine, EngineConfig, EngineStats

Body = TypeVar("Body")
Started = TypeVar("Started")


class Intake:
    """Methods run on the event loop; what is heavy goes to the workers."""

    def __init__(self, engine: Engine, limits: EngineConfig, workers: Workers) -> None:
        self._engine = engine
        self._limits = limits
        self._workers = workers
        self._arrivals: Arrivals | None = None
        self.preparing = 0

    @property
    def alive(self) -> bool:
        return self._engine.alive

    def stats(self) -> EngineStats:
        return self._engine.stats()

    def stream(self, id: str) -> EngineStream:
        if self._arrivals is None:  # it may have been made before there was an event loop
            self._arrivals = Arrivals(asyncio.get_running_loop())
        return EngineStream(self._engine, id, self._arrivals)

    async def prepared(
        self, prefix: str, start: Callable[[Body, EngineStream], Preparing[Started]], body: Body
    ) -> Started:
        """Prepare a request and hand it to the engine; a caller who leaves takes it along."""
        return await self.prepared_together(
            prefix, 1, lambda body, streams: start(body, streams[0]), body
        )

    async def prepared_together(
        self,
        prefix: str,
        n: int,
        start: Callable[[Body, list[EngineStream]], Preparing[Started]],
        body: Body,
    ) -> Started:
        """The same for one prompt's ``n`` replies: all of them, or none."""
        with self.place(n):
            streams = [self.stream(new_id(prefix)) for _ in range(n)]
            try:
                return await self._workers.compose(start, body, streams)
            except BaseException:
                for stream in streams:
                    stream.cancel()
                raise

    @contextmanager
    def place(self, n: int = 1) -> Iterator[None]:
        """Places in the queue, taken before any work is done and given back when the engine has
        the request: what is being prepared waits, too."""
        self._check_room(n)
        self.preparing += n
        try:
            yield
        finally:
            self.preparing -= n

    def _check_room(self, n: int) -> None:
        """A full queue is noticed before any work is done."""
        if not self.alive:
            raise ApiError("engine_dead", "the engine has stopped; the server must be restarted")
        most = self._limits.max_queue + self._limits.max_batch
        if n > most:
            raise ApiError(
                "invalid_value",
                f"n is {n}; this server takes {most} replies at once, running and waiting together",
                param="n",
            )
        stats = self.stats()
        # Who has a free place coming does not wait: as many more may come at once.
        free = self._limits.max_batch - stats.running
        if stats.waiting + self.preparing + n > self._limits.max_queue + free:
            raise queue_full(f"{self._limits.max_queue} requests are waiting already; try again")


def new_id(prefix: str) -> str:
    return f"{prefix}_{secrets.token_hex(12)}"
