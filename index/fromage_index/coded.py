"""Inner-product search over vectors in int8, with FAISS, on the CPU: what scores are at most.

A search reads every vector, and in int8 that is a quarter of the bytes and several rows in the time
of one. By how much a score from codes can be wrong is known beforehand: for vectors v, q and their
codes v', q', |v.q - v'.q'| <= |v - v'| |q| + |v'| |q - q'| (Cauchy and Schwarz). So the best rows
are found exactly, by looking at the vectors of the few that may be among them.

The vectors are turned by a random rotation first, which changes no inner product and leaves no
component much larger than the others, for which one step would serve all of them badly (as do
Ashkboos et al., QuaRot, NeurIPS 2024).
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fromage_index.flat import few_at_once
from fromage_index.segment import Float32

_LEVELS = 127
_GROUP = 32  # FAISS multiplies bytes fast where their number is a multiple of this
_AT_ONCE = 16_384  # rows that are coded
# Numbers of an index from which on it no longer lies in a core's own caches.
_WORTH_IT = 2 << 20
_TRIED, _TRIALS, _CLEARLY = (16_384, 256), 5, 0.8


class CodedIndex:
    """FAISS's IndexScalarQuantizer of 8 bits, built in memory. Safe to search from several threads,
    as FAISS's on the CPU are."""

    def __init__(self, dim: int, vectors: Float32) -> None:
        """`vectors` (N, E) of norm one, N at least 1."""
        import faiss

        self._turn, self._padded = _rotation(dim), _padded(dim)
        parts = [vectors[first : first + _AT_ONCE] for first in range(0, len(vectors), _AT_ONCE)]
        self._step = max(float(np.abs(part @ self._turn).max()) for part in parts) / _LEVELS
        self._lost, self._longest = 0.0, 0.0
        # Of unit vectors: turning them, and the sum of their products, in float32.
        self._rounding = 3 * (dim + 8) * 2.0**-24
        kind = faiss.ScalarQuantizer.QT_8bit_direct_signed
        self._index: Any = faiss.IndexScalarQuantizer(
            self._padded, kind, faiss.METRIC_INNER_PRODUCT
        )
        for part in parts:
            codes, lost, longest = self._coded(part, self._step)
            self._index.add(codes)
            self._lost = max(self._lost, float(lost.max()))
            self._longest = max(self._longest, float(longest.max()))

    def search(self, queries: Float32, fetch: int) -> tuple[Float32, NDArray[np.int64]]:
        """(Q, E) of norm one to the `fetch` rows that may score best (Q, fetch), and before them
        what their scores are at most, descending. No other row scores more than the last."""
        turned = np.abs(queries @ self._turn).max(axis=1, keepdims=True) / _LEVELS
        codes, lost, _ = self._coded(queries, turned)
        with few_at_once(len(queries)):
            found, rows = self._index.search(codes, fetch)
        wrong = self._lost + self._longest * lost[:, None] + self._rounding
        return (found * (turned * self._step) + wrong).astype(np.float32), rows

    def _coded(self, vectors: Float32, step: float | Float32) -> tuple[Float32, Float32, Float32]:
        """(N, E) -> whole numbers (N, P), zeros behind the row; and the norms (N,) of what rounding
        took, and of what they stand for."""
        exact = vectors @ self._turn
        whole = np.rint(exact / step)
        codes = np.zeros((len(vectors), self._padded), dtype=np.float32)
        codes[:, : vectors.shape[1]] = whole
        kept = whole * step
        return codes, np.linalg.norm(exact - kept, axis=1), np.linalg.norm(kept, axis=1)


def is_worth_it(rows: int, dim: int) -> bool:
    """Whether codes are held of so many vectors, if they pay at all."""
    return rows * dim >= _WORTH_IT


def held_bytes(rows: int, dim: int, device: str) -> int:
    """What an index of so many vectors holds; `device` is "cpu" or "cuda"."""
    coded = device == "cpu" and is_worth_it(rows, dim)
    return rows * (_padded(dim) if coded else 4 * dim)


@functools.cache
def pays() -> bool:
    """Whether FAISS multiplies bytes clearly faster than floats here. Without the instructions that
    it has in mind it takes several times as long."""
    import faiss

    vectors = np.random.default_rng(0).standard_normal(_TRIED, dtype=np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    exact, coded = faiss.IndexFlatIP(vectors.shape[1]), CodedIndex(vectors.shape[1], vectors)
    exact.add(vectors)
    with few_at_once(1):
        return _took(lambda: coded.search(vectors[:1], 16)) < _CLEARLY * _took(
            lambda: exact.search(vectors[:1], 16)
        )


def _took(work: Callable[[], object]) -> float:
    """Seconds, at best."""
    times = []
    for _ in range(_TRIALS):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def _padded(dim: int) -> int:
    return -(-dim // _GROUP) * _GROUP


@functools.lru_cache(maxsize=4)
def _rotation(dim: int) -> Float32:
    """(E, E), always the same."""
    random = np.random.default_rng(dim).standard_normal((dim, dim))
    return np.ascontiguousarray(np.linalg.qr(random)[0], dtype=np.float32)
