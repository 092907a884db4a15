"""The search thread. What waits at the same moment is searched for together: a search's time is
that of reading the vectors, and one reading serves many queries."""

from __future__ import annotations

import importlib.util
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVar

import numpy as np

from fromage_index.collection import Hit
from fromage_server.batches import Batches
from fromage_server.threads import compute_alone

if TYPE_CHECKING:
    from fromage_server.gallery import Scope

T = TypeVar("T")
Query: TypeAlias = np.ndarray[Any, np.dtype[np.float32]]
# More would keep the first of them waiting, and hold a score for each of so many times all images.
MOST_TOGETHER: Final = 16


@dataclass(frozen=True)
class Search:
    """For the best ``k`` images for a unit query (E,), fewer where there are no more, without
    those of the ids ``exclude``."""

    scope: Scope
    query: Query
    k: int
    exclude: frozenset[str] = frozenset()


Searching: TypeAlias = Generator[Search, list[Hit], T]
"""Work on the search thread: it yields what it wants to have searched for, is sent what was found,
and may read files between."""


@dataclass(eq=False)
class _Job:
    work: Searching[Any]
    done: Future[Any] = field(default_factory=Future)
    wanted: Search | None = None

    def begin(self) -> bool:
        """Whether it wants something found; False where nobody waits any more."""
        return self.done.set_running_or_notify_cancel() and self.go_on(None)

    def go_on(self, found: list[Hit] | Exception | None) -> bool:
        """Whether it wants something more."""
        try:
            if isinstance(found, Exception):
                self.wanted = self.work.throw(found)
            elif found is None:
                self.wanted = next(self.work)
            else:
                self.wanted = self.work.send(found)
        except StopIteration as end:
            self.done.set_result(end.value)
            return False
        except Exception as error:
            self.done.set_exception(error)
            return False
        return True


class Searches:
    """One thread for all searches of a server. Any thread may call."""

    def __init__(self) -> None:
        self._batches = Batches[_Job]("fromage-search", _work, _has_room, _begin)

    def submit(self, work: Searching[T]) -> Future[T]:
        """What ``work`` returns or raises; cancelled where the server is stopping."""
        job = _Job(work)
        if not self._batches.put(job):
            job.done.cancel()
        return job.done

    def close(self) -> None:
        """No more; waits for nothing."""
        self._batches.close(wait=False)


def search_together(wanted: Sequence[Search]) -> list[list[Hit]]:
    """For each what it would find alone. All have one scope."""
    most = max(one.k + len(one.exclude) for one in wanted)
    found = wanted[0].scope.search(np.stack([one.query for one in wanted]), most)
    return [
        [hit for hit in hits if hit.id not in one.exclude][: one.k]
        for one, hits in zip(wanted, found, strict=True)
    ]


def _begin() -> None:
    """One core, as all that computes beside the engine."""
    compute_alone()
    if importlib.util.find_spec("faiss") is not None:
        import faiss

        faiss.omp_set_num_threads(1)


def _has_room(jobs: Sequence[_Job]) -> bool:
    return len(jobs) < MOST_TOGETHER


def _work(jobs: list[_Job]) -> None:
    going = [job for job in jobs if job.begin()]
    while going:
        going = [job for alike in _alike(going) for job in _answered(alike)]


def _alike(jobs: Sequence[_Job]) -> list[list[_Job]]:
    """Those that one look at the vectors can serve. One that wants very many has its own, which
    can be a slow one."""
    groups: dict[tuple[Scope, int], list[_Job]] = {}
    for job in jobs:
        one = _wanted(job)
        size = (one.k + len(one.exclude)).bit_length()
        groups.setdefault((one.scope, size), []).append(job)
    return list(groups.values())


def _answered(jobs: Sequence[_Job]) -> Iterator[_Job]:
    """Those of them that want something more."""
    found: Sequence[list[Hit] | Exception]
    try:
        found = search_together([_wanted(job) for job in jobs])
    except Exception as error:
        if len(jobs) > 1:  # whose fault it was shows when each searches alone
            for job in jobs:
                yield from _answered([job])
            return
        found = [error]
    for job, hits in zip(jobs, found, strict=True):
        if job.go_on(hits):
            yield job


def _wanted(job: _Job) -> Search:
    assert job.wanted is not None
    return job.wanted
