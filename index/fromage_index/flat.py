"""Exact inner-product search over all vectors, with FAISS, on the CPU or one GPU."""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fromage_index.errors import FaissInstallation
from fromage_index.segment import Float32

# "auto", "cpu", "cuda" or "cuda:N".
Device = str
# What a GPU index can return in one search.
MAX_FETCH = 2048
_FEW = 4


class FlatIndex:
    """FAISS's IndexFlatIP, built in memory from the vectors; nothing of it is stored.

    Safe to search from several threads: FAISS is on the CPU, where many queries at once take the
    threads that OpenMP has in the one that asks, and a lock keeps a GPU index, which is not, to one
    search at a time.
    """

    def __init__(
        self,
        dim: int,
        parts: Iterable[Float32],
        device: Device = "auto",
        *,
        like: FlatIndex | None = None,
    ) -> None:
        """`like` is another index on the same device: they share its working memory, and on a
        GPU its lock. Raises FaissInstallation."""
        import faiss

        index: Any = faiss.IndexFlatIP(dim)
        for part in parts:
            index.add(np.ascontiguousarray(part))
        self.on_gpu = on_gpu(device)
        self._lock: threading.Lock = like._lock if like is not None else threading.Lock()
        if not self.on_gpu:
            faiss.cvar.distance_compute_blas_threshold = _blas_from(dim)
        else:
            self._resources: Any = like._resources if like else faiss.StandardGpuResources()
            index = faiss.index_cpu_to_gpu(self._resources, _number(device), index)
        self._index = index

    def search(self, queries: Float32, fetch: int) -> tuple[Float32, NDArray[np.int64]]:
        """(Q, E) to the `fetch` best scores (Q, fetch), descending, and their rows."""
        if self.on_gpu:
            with self._lock:
                scores, rows = self._index.search(queries, fetch)
        else:
            with few_at_once(len(queries)):
                scores, rows = self._index.search(queries, fetch)
        return scores, rows


@contextmanager
def few_at_once(queries: int) -> Iterator[None]:
    """FAISS shares queries out, not vectors: for a few of them its threads only cost."""
    import faiss

    usual = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1 if queries < _FEW else usual)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(usual)


def _blas_from(dim: int) -> int:
    """What FAISS is told about when to multiply by BLAS, which on one core is faster from `_FEW`
    queries on. Up to 1.14 it counts queries, 1.15 queries times dimensions; its defaults suit many
    cores (issue 4925 and pull requests 5022 and 5109 there). Any other default stays."""
    usual = _usual_threshold()
    return {20: _FEW, 128_000: _FEW * dim}.get(usual, usual)


@functools.cache
def _usual_threshold() -> int:
    import faiss

    return int(faiss.cvar.distance_compute_blas_threshold)


def _number(device: Device) -> int:
    return int(device.partition(":")[2] or 0)


def on_gpu(device: Device) -> bool:
    """Whether an index for this device is on a GPU. Raises FaissInstallation where it cannot be."""
    import faiss

    available = hasattr(faiss, "StandardGpuResources") and faiss.get_num_gpus() > 0
    if device.startswith("cuda") and not available:
        raise FaissInstallation(
            "the index was asked to run on the GPU, but this FAISS has no GPU support or sees no "
            "GPU; install fromage-server[gpu], or choose the device cpu"
        )
    return available and device != "cpu"
