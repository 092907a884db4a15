"""Ranked rows for a query: exact, and the same on every run.

FAISS proposes candidates and says what all others score at most; the candidates' scores are
computed again in float64, row by row, so that equal vectors get equal scores whatever the batch,
and ties fall by row.
"""

from __future__ import annotations

import numpy as np

from fromage_index.flat import MAX_FETCH
from fromage_index.parts import MAX_REMOVED, PartedIndex
from fromage_index.segment import Float32
from fromage_index.store import Rows, Store

Ranked = list[tuple[int, float]]

# Float32 inner products of unit vectors differ by less than this between summation orders.
_NOISE = 1e-5
_SCAN_ROWS = 65_536


def rank(
    store: Store, index: PartedIndex, queries: Float32, k: int, *, without: set[int]
) -> list[Ranked]:
    """The `k` best (row, cosine) for each of (Q, E) unit queries, leaving out some rows."""
    if len(store) == 0:
        return [[] for _ in queries]
    results: dict[int, Ranked] = {}
    left = list(range(len(queries)))
    few = k + len(without) + index.slack
    for fetch in _fetches(few, len(store)):
        if not left:
            break
        at_most, found = index.search(queries[left], fetch)
        for place, candidates, floor in zip(left, found, at_most[:, -1], strict=True):
            kept = candidates[~np.isin(candidates, list(without))]
            ranked = _order(store, queries[place], kept)[:k]
            # Else rows that were not fetched may be as good.
            if fetch == len(store) or ranked[-1][1] > float(floor) + _NOISE:
                results[place] = ranked
        left = [place for place in left if place not in results]
    if left:
        rows = _all_but(store, without)
        results.update(zip(left, scan(store, queries[left], k, rows), strict=True))
    return [results[place] for place in range(len(queries))]


def _fetches(few: int, size: int) -> list[int]:
    """How many of all rows are fetched, at first and where those do not suffice."""
    most = min(size, MAX_FETCH - MAX_REMOVED)
    few = min(size, few)
    return sorted({few, most}) if few <= most else []


def scan(store: Store, queries: Float32, k: int, rows: Rows) -> list[Ranked]:
    """The same ranking, among `rows` only (n,), by looking at each of them."""
    scores = np.empty((len(queries), len(rows)), dtype=np.float32)
    for start in range(0, len(rows), _SCAN_ROWS):
        part = slice(start, start + _SCAN_ROWS)
        scores[:, part] = queries @ store.vectors(rows[part]).T
    results = []
    for query, mine in zip(queries, scores, strict=True):
        if k < len(rows):
            floor = np.partition(mine, len(rows) - k)[len(rows) - k]
            candidates = rows[mine >= floor - _NOISE]
        else:
            candidates = rows
        results.append(_order(store, query, candidates)[:k])
    return results


def _all_but(store: Store, without: set[int]) -> Rows:
    return np.setdiff1d(store.live_rows, np.fromiter(without, np.int64))


def _order(store: Store, query: Float32, candidates: Rows) -> Ranked:
    """Candidates by falling score, then by row."""
    exact = (store.vectors(candidates).astype(np.float64) * query.astype(np.float64)).sum(axis=1)
    # As float32, so that what is equal to the reader is a tie.
    scores = np.clip(exact, -1.0, 1.0).astype(np.float32)
    order = np.lexsort((candidates, -scores))
    return [(int(candidates[i]), float(scores[i])) for i in order]
