"""The search thread. What waits at the same moment is searched for together: one query's time is
that of reading the vectors, and one reading serves many."""

from __future__ import annotations

import importlib.util
from collections import deque
from collections.abc import Generator, Iterable, Sequence
from concurrent.futures import CancelledError, Future
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
# A longer queue is served in several goes, that its first need not wait for its last.
MOST_TOGETHER: Final = 16
# Who wants more images, those left out among them, is searched for alone: all results of a go are
# there at once, and so many are what a search's time goes to.
FEW_IMAGES: Final = 256
_STOP_S: Final = 5.0


@dataclass(frozen=True)
class Search:
    """For the best ``k`` images for a unit query (E,), fewer where there are no more, without
    those of the ids ``exclude``; in the collection as it is when it is searched."""

    scope: Scope
    query: Query
    k: int
    exclude: frozenset[str] = frozenset()

    @property
    def images(self) -> int:
        return self.k + len(self.exclude)

    def is_like(self, other: Search) -> bool:
        """Whether one look at the vectors can serve both."""
        small = max(self.images, other.images) <= FEW_IMAGES
        return small and self.scope.asks_like(other.scope)


@dataclass(frozen=True)
class Result:
    """``scope`` is over the state of the collection in which the hits were found."""

    scope: Scope
    hits: list[Hit]

    @property
    def readable(self) -> list[Hit]:
        """Those whose images open. Reads files."""
        return [hit for hit in self.hits if self.scope.collection.readable(hit.id)]


Searching: TypeAlias = Generator[Search, Result, T]
"""Work on the search thread: it yields what it wants to have searched for, is sent what was found,
and may read files between."""


@dataclass(eq=False)
class _Job:
    work: Searching[Any]
    done: Future[Any] = field(default_factory=Future)
    wanted: Search | None = None
    found: Result | Exception | None = None

    def begin(self) -> bool:
        """Whether it wants something found; False where nobody waits any more."""
        return self.done.set_running_or_notify_cancel() and self.go_on()

    def go_on(self) -> bool:
        """With what was found; whether it wants something more."""
        found, self.found = self.found, None
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
        except BaseException as error:
            self.done.set_exception(error)
            return False
        return True


class Searches:
    """One thread for all searches of a server. Any thread may call."""

    def __init__(self) -> None:
        self._batches = Batches[_Job]("fromage-search", self._work, _has_room, _begin)

    def submit(self, work: Searching[T]) -> Future[T]:
        """What ``work`` returns or raises; cancelled where the server is stopping."""
        job = _Job(work)
        if not self._batches.put(job):
            job.done.cancel()
        return job.done

    def close(self) -> None:
        """The search that is under way ends first, unless it takes very long; the others are
        cancelled."""
        self._batches.close(_STOP_S)

    def _work(self, jobs: list[_Job]) -> None:
        """In their order. One that wants more is behind the others."""
        try:
            going = deque(job for job in jobs if not self._batches.closed and job.begin())
            while going and not self._batches.closed:
                if going[0].found is None:
                    _search_like_the_first(going)
                job = going.popleft()
                if job.go_on():
                    going.append(job)
        finally:
            for job in jobs:
                if not job.done.done() and not job.done.cancel():
                    job.done.set_exception(CancelledError())


def _begin() -> None:
    """FAISS takes one core, as all that computes beside the engine."""
    compute_alone()
    if importlib.util.find_spec("faiss") is not None:
        import faiss

        faiss.omp_set_num_threads(1)


def _has_room(jobs: Sequence[_Job]) -> bool:
    return len(jobs) < MOST_TOGETHER


def _search_like_the_first(jobs: Iterable[_Job]) -> None:
    """For the first, and all others that have found nothing yet and are like it."""
    asking = [(job, job.wanted) for job in jobs if job.found is None and job.wanted is not None]
    alike = [(job, wanted) for job, wanted in asking if wanted.is_like(asking[0][1])] or asking[:1]
    try:
        found = search_together([wanted for _, wanted in alike])
    except Exception as error:
        if len(alike) > 1:  # whose fault it was shows when each searches alone
            for job, _ in alike:
                _search_like_the_first([job])
        else:
            alike[0][0].found = error
        return
    for (job, _), result in zip(alike, found, strict=True):
        job.found = result


def search_together(wanted: Sequence[Search]) -> list[Result]:
    """For each what it would find alone; they are alike."""
    scope = wanted[0].scope.latest()
    if len(wanted) == 1:
        (one,) = wanted
        found = scope.search(one.query[None], one.k, one.exclude)
    else:
        most = max(one.images for one in wanted)
        found = scope.search(np.stack([one.query for one in wanted]), most)
    return [
        Result(scope, [hit for hit in hits if hit.id not in one.exclude][: one.k])
        for one, hits in zip(wanted, found, strict=True)
    ]
