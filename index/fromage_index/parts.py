"""A search index for each segment, searched as one: what is added costs only its own."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from fromage_index import faiss_build
from fromage_index.coded import CodedIndex, is_worth_it, pays
from fromage_index.flat import Device, FlatIndex, on_gpu
from fromage_index.segment import Float32, Segment
from fromage_index.store import Rows, Store

# A segment's index is built again without its removed rows when it has so many of them.
MAX_REMOVED = 256
# How many rows more than are wanted are fetched, where scores are exact and where they are not: so
# many tell a random collection's best from all others.
_SLACK, _SLACK_CODED = 16, 112


@dataclass(frozen=True)
class _Part:
    """Of one segment: `places` (n,) are the indexed rows of it, None where all are; `removed`
    is how many of those must be passed over."""

    segment: Segment
    index: FlatIndex | CodedIndex
    places: Rows | None
    size: int
    removed: int


class PartedIndex:
    """Immutable, as the store is whose rows it finds. Safe to search from several threads."""

    def __init__(
        self, store: Store, device: Device = "auto", earlier: PartedIndex | None = None
    ) -> None:
        """`earlier` is one over an earlier state of the store, whose parts are used again. Raises
        FaissInstallation."""
        if earlier is None:
            faiss_build.check()
        self._store = store
        self._device = device
        self._first: FlatIndex | None = earlier._first if earlier is not None else None
        known = {part.segment: part for part in earlier._parts} if earlier is not None else {}
        self._parts: list[_Part] = [
            self._part(n, known.get(store.segments[n])) for n in range(len(store.segments))
        ]

    @property
    def slack(self) -> int:
        """How many more than are wanted are best fetched."""
        coded = any(isinstance(part.index, CodedIndex) for part in self._parts)
        return _SLACK_CODED if coded else _SLACK

    def search(self, queries: Float32, fetch: int) -> tuple[Float32, NDArray[np.int64]]:
        """(Q, E) to the `fetch` rows that may score best (Q, fetch), and before them what their
        scores are at most, descending. No other row scores more than the last.

        There must be as many images. On a GPU `fetch` can be MAX_FETCH - MAX_REMOVED at most.
        """
        found = [
            self._search_part(number, queries, fetch)
            for number, part in enumerate(self._parts)
            if part.size > part.removed
        ]
        scores = np.concatenate([scores for scores, _ in found], axis=1)
        rows = np.concatenate([rows for _, rows in found], axis=1)
        if len(found) == 1:
            return scores[:, :fetch], rows[:, :fetch]
        best = np.argsort(-scores, axis=1, kind="stable")[:, :fetch]
        return np.take_along_axis(scores, best, axis=1), np.take_along_axis(rows, best, axis=1)

    def _search_part(
        self, number: int, queries: Float32, fetch: int
    ) -> tuple[Float32, NDArray[np.int64]]:
        part = self._parts[number]
        scores, rows = part.index.search(queries, min(part.size, fetch + part.removed))
        rows = self._store.starts[number] + (rows if part.places is None else part.places[rows])
        if part.removed == 0:
            return scores, rows
        # Removed rows go behind all others, which are enough.
        scores = np.where(self._store.alive[rows], scores, -np.inf)
        order = np.argsort(-scores, axis=1, kind="stable")[:, : part.size - part.removed]
        return np.take_along_axis(scores, order, axis=1), np.take_along_axis(rows, order, axis=1)

    def _part(self, number: int, known: _Part | None) -> _Part:
        segment = self._store.segments[number]
        alive = self._store.alive[self._store.starts[number] : self._store.starts[number + 1]]
        live = int(alive.sum())
        if known is not None and known.size - live <= MAX_REMOVED:
            return replace(known, removed=known.size - live)
        places = None if live == segment.rows else np.flatnonzero(alive)
        vectors = segment.vectors if places is None else segment.vectors[places]
        return _Part(segment, self._index_of(vectors), places, live, 0)

    def _index_of(self, vectors: Float32) -> FlatIndex | CodedIndex:
        dim = self._store.manifest.dim
        if not on_gpu(self._device) and is_worth_it(len(vectors), dim) and pays():
            return CodedIndex(dim, vectors)
        index = FlatIndex(dim, [vectors], self._device, like=self._first)
        self._first = self._first or index
        return index
