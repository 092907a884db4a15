"""Batches of evaluation beside one another on a CPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch

P = TypeVar("P")
T = TypeVar("T")

_MOST = 4  # at once


def side_by_side(
    work: Callable[[P], T], parts: Sequence[P], at_once: int = _MOST
) -> Iterator[tuple[P, T]]:
    """Each part and what ``work`` makes of it, in order.

    Up to ``at_once`` at a time, and four, between which torch's threads are divided: on a CPU the
    products of a small model gain less from a second thread than from another batch beside them,
    and what a batch does between its products takes one thread anyway. ``work`` gives the same, but
    for rounding.
    """
    threads = torch.get_num_threads()
    workers = min(threads, at_once, _MOST, len(parts))
    if workers < 2:
        yield from ((part, work(part)) for part in parts)
        return
    with _threads_each(threads // workers), ThreadPoolExecutor(workers) as pool:
        yield from zip(parts, pool.map(work, parts), strict=True)


@contextmanager
def _threads_each(count: int) -> Iterator[None]:
    """So many threads of torch for each thread of Python that is started within."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
