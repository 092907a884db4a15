"""Threads for what must not run on the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from functools import partial
from typing import Any, ParamSpec, TypeAlias, TypeVar

from fromage_server.searches import Searches, Searching
from fromage_server.threads import compute_alone

P = ParamSpec("P")
T = TypeVar("T")
Preparing: TypeAlias = Generator[Future[Any], None, T]
"""Work in several parts: it yields what it waits for, and takes no thread until that is done."""


class Workers:
    """``prepare`` and ``compose`` read and decode prompts, ``search`` ranks, ``files`` serves
    images: each has its own threads, so that none waits for another. Two at most: image decoders
    hold the interpreter's lock, and more of them made it slower."""

    def __init__(self) -> None:
        self._prepare = ThreadPoolExecutor(2, "fromage-prepare", compute_alone)
        self.searches = Searches()
        self._files = ThreadPoolExecutor(2, "fromage-files")

    async def prepare(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await _run(self._prepare, partial(work, *args, **kwargs))

    async def compose(
        self, work: Callable[P, Preparing[T]], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        going = work(*args, **kwargs)
        while isinstance(waited := await _run(self._prepare, partial(_advance, going)), Future):
            # What went wrong the work hears itself; and others may wait for the same.
            with suppress(Exception):
                await asyncio.shield(asyncio.wrap_future(waited))
        return waited[0]

    async def search(self, work: Searching[T]) -> T:
        return await asyncio.wrap_future(self.searches.submit(work))

    async def files(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await _run(self._files, partial(work, *args, **kwargs))

    def stop(self) -> None:
        for pool in (self._prepare, self._files):
            pool.shutdown(wait=False, cancel_futures=True)
        self.searches.close()


async def _run(pool: ThreadPoolExecutor, work: Callable[[], T]) -> T:
    return await asyncio.get_running_loop().run_in_executor(pool, work)


def completed(going: Preparing[T]) -> T:
    """What comes of it, for a caller that has a thread to wait in."""
    while isinstance(waited := _advance(going), Future):
        wait([waited])
    return waited[0]


def _advance(going: Preparing[T]) -> Future[Any] | tuple[T]:
    """What it waits for next, or what came of it."""
    try:
        return next(going)
    except StopIteration as end:
        return (end.value,)
