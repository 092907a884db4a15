"""Exact inner-product search over all vectors, with FAISS, on the CPU or one GPU."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fromage_index import faiss_build
from fromage_index.errors import FaissInstallation
from fromage_index.segment import Float32

# "auto", "cpu", "cuda" or "cuda:N".
Device = str
# What a GPU index can return in one search.
MAX_FETCH = 2048
_FEW = 4


class FlatIndex:
    """FAISS's IndexFlatIP, built in memory from the vectors; nothing of it is stored.

    Safe to search from several threads: FAISS is on the CPU, and a lock keeps a GPU index,
    which is not, to one search at a time.
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
        if like is None:
            faiss_build.check()
        import faiss

        index: Any = faiss.IndexFlatIP(dim)
        for part in parts:
            index.add(np.ascontiguousarray(part))
        self.on_gpu = _use_gpu(faiss, device)
        self._threads: int = like._threads if like is not None else faiss.omp_get_max_threads()
        self._set_threads = faiss.omp_set_num_threads
        self._lock: threading.Lock = like._lock if like is not None else threading.Lock()
        if self.on_gpu:
            self._resources: Any = like._resources if like else faiss.StandardGpuResources()
            index = faiss.index_cpu_to_gpu(self._resources, _number(device), index)
        self._index = index

    def search(self, queries: Float32, fetch: int) -> tuple[Float32, NDArray[np.int64]]:
        """(Q, E) to the `fetch` best scores (Q, fetch), descending, and their rows."""
        if self.on_gpu:
            with self._lock:
                scores, rows = self._index.search(queries, fetch)
        else:
            # FAISS shares queries out, not vectors: for a few of them its threads only cost.
            self._set_threads(1 if len(queries) < _FEW else self._threads)
            scores, rows = self._index.search(queries, fetch)
        return scores, rows


def _number(device: Device) -> int:
    return int(device.partition(":")[2] or 0)


def _use_gpu(faiss: Any, device: Device) -> bool:
    available = hasattr(faiss, "StandardGpuResources") and faiss.get_num_gpus() > 0
    if device.startswith("cuda") and not available:
        raise FaissInstallation(
            "the index was asked to run on the GPU, but this FAISS has no GPU support or sees no "
            "GPU; install fromage-server[gpu], or choose the device cpu"
        )
    return available and device != "cpu"
