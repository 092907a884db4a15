"""Threads for what must not run on the event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class Workers:
    """``prepare`` reads, decodes and encodes prompts, ``search`` ranks, ``files`` serves images:
    each has its own threads, so that none waits for another. Two at most: image decoders hold the
    interpreter's lock, and more of them made it slower."""

    def __init__(self) -> None:
        self._prepare = ThreadPoolExecutor(2, "fromage-prepare", compute_alone)
        self._search = ThreadPoolExecutor(1, "fromage-search", compute_alone)
        self._files = ThreadPoolExecutor(2, "fromage-files")

    async def prepare(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await _run(self._prepare, partial(work, *args, **kwargs))

    async def search(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await _run(self._search, partial(work, *args, **kwargs))

    async def files(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await _run(self._files, partial(work, *args, **kwargs))

    def stop(self) -> None:
        for pool in (self._prepare, self._search, self._files):
            pool.shutdown(wait=False, cancel_futures=True)


_one_at_a_time = threading.Lock()


def compute_alone() -> None:
    """torch uses one core in this thread. OpenMP keeps helpers for every thread that computes on
    several, and where there are more of them than cores they sleep between operations instead of
    waiting for the next one: the engine's steps then take up to twice as long."""
    import torch

    with _one_at_a_time:
        usual = torch.get_num_threads()
        torch.set_num_threads(1)
        # Threads to come begin with what was set last; so the last word is a thread's that ends.
        restoring = threading.Thread(target=torch.set_num_threads, args=(usual,))
        restoring.start()
        restoring.join()


async def _run(pool: ThreadPoolExecutor, work: Callable[[], T]) -> T:
    return await asyncio.get_running_loop().run_in_executor(pool, work)
