"""From a [RET]'s query to the images that stand in its place."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Protocol

from fromage_index.collection import Hit
from fromage_server.errors import ApiError
from fromage_server.gallery import Scope
from fromage_server.searches import Query, Result, Search, Searching

# The reference tries this many more than are wanted, because some may not open.
SPARE: Final = 3


@dataclass(frozen=True)
class Found:
    """``scope`` is the state of the collection in which they were found."""

    scope: Scope
    shown: list[Hit]
    alternatives: list[Hit]


class Finder(Protocol):
    """One reply's searches, in order and one at a time: what was shown once doesn't come again."""

    def find(self, query: Query) -> Searching[Found | None]: ...


class DistinctFinder:
    """The best images that open and were neither shown nor excluded; the next best as
    alternatives."""

    def __init__(self, scope: Scope, images: int, exclude: Iterable[str]) -> None:
        self._scope = scope
        self._images = images
        self._gone = set(exclude)

    def find(self, query: Query) -> Searching[Found]:
        found = yield Search(self._scope, query, self._images + SPARE, frozenset(self._gone))
        opening = found.readable
        shown, alternatives = opening[: self._images], opening[self._images :]
        self._gone.update(hit.id for hit in found.hits if hit not in alternatives)
        return Found(found.scope, shown, alternatives)


class ReferenceFinder:
    """The reference's loop: every image *tried* for an earlier [RET], readable or not, ranks
    behind all others, once more for each time it was tried; images + 3 are tried."""

    def __init__(self, scope: Scope, images: int) -> None:
        self._scope = scope
        self._images = images
        self._tried: Counter[str] = Counter()

    def find(self, query: Query) -> Searching[Found]:
        wanted = self._images + SPARE
        found = yield Search(self._scope, query, wanted + len(self._tried))
        scope = found.scope
        if scope.collection.size < wanted:
            raise ApiError(
                "reference_error",
                f"the reference needs a collection of at least {wanted} images for "
                f"max_img_per_ret {self._images}; {scope.name!r} has "
                f"{scope.collection.size}",
                param="max_img_per_ret",
            )
        # Scaled scores span at most 200 and each try costs 1000: the number of tries decides.
        ranked = sorted(found.hits, key=lambda hit: self._tried[hit.id])
        shown: list[Hit] = []
        for hit in ranked[:wanted]:
            self._tried[hit.id] += 1
            if scope.collection.readable(hit.id):
                shown.append(hit)
            if len(shown) == self._images:
                break
        return Found(scope, shown, [])


class NothingToFind:
    """A server without collections."""

    def find(self, query: Query) -> Searching[None]:
        yield from ()


def best_readable(scope: Scope, query: Query, k: int, exclude: Iterable[str]) -> Searching[Result]:
    """The ``k`` best images that open."""
    gone, wanted = frozenset(exclude), k + SPARE
    while True:
        found = yield Search(scope, query, wanted, gone)
        opening = found.readable
        if len(opening) >= k or len(found.hits) < wanted:
            return Result(found.scope, opening[:k])
        wanted *= 2
