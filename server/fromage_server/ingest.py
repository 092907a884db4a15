"""Pictures on their way into a collection: decoded and embedded beside everything else."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from fromage_index.decode import decode_image
from fromage_index.errors import UnreadableImage
from fromage_server.batches import Batches
from fromage_server.errors import ApiError
from fromage_server.media import SourceImage
from fromage_server.threads import compute_alone

if TYPE_CHECKING:
    from fromage_weights.image_embedder import ImageEmbedder

_BATCH: Final = 16
MAX_WAITING_BYTES: Final = 512 << 20


@dataclass(frozen=True)
class Embedded:
    """``vector`` is (E,), ``size`` that of the upright picture."""

    vector: np.ndarray[Any, np.dtype[np.float32]]
    size: tuple[int, int]


@dataclass(eq=False)
class _Job:
    image: SourceImage
    done: Future[Embedded] = field(default_factory=Future)


class Ingest:
    """Embeds what has gathered in one pass, whoever it is from, in a thread of its own: neither the
    prompts' images nor the replies wait for it. Any thread may call."""

    def __init__(self, embedder: ImageEmbedder) -> None:
        self._embedder = embedder
        self._batches = Batches[_Job](
            "fromage-ingest", self._work, lambda jobs: len(jobs) < _BATCH, begin=compute_alone
        )
        self._lock = threading.Lock()
        self._waiting_bytes = 0  # guarded by the lock

    def submit(self, image: SourceImage) -> Future[Embedded]:
        """The future raises ApiError for what is no picture, and CancelledError where the server
        is stopping. Raises ApiError where too much is waiting."""
        job = _Job(image)
        with self._lock:
            if self._waiting_bytes and self._waiting_bytes + len(image.data) > MAX_WAITING_BYTES:
                raise ApiError(
                    "queue_full",
                    f"{self._waiting_bytes:,} bytes of pictures are waiting already; try again",
                    retry_after=2,
                )
            self._waiting_bytes += len(image.data)
        if not self._batches.put(job):
            job.done.cancel()
        return job.done

    def close(self) -> None:
        """No more pictures; those that wait are embedded first."""
        self._batches.close()

    def _work(self, jobs: list[_Job]) -> None:
        self._embed(jobs)
        with self._lock:
            self._waiting_bytes -= sum(len(job.image.data) for job in jobs)

    def _embed(self, jobs: list[_Job]) -> None:
        good, prepared, sizes = [], [], []
        for job in jobs:
            if not job.done.set_running_or_notify_cancel():
                continue  # nobody waits for it any more
            try:
                picture = decode_image(job.image.data)
                prepared.append(self._embedder.prepare(picture))
            except UnreadableImage as error:
                job.done.set_exception(
                    ApiError("unreadable_image", str(error), param=job.image.param)
                )
            except Exception as error:
                job.done.set_exception(error)
            else:
                good.append(job)
                sizes.append(picture.size)
        if not good:
            return
        try:
            vectors = self._embedder.embed(prepared)
        except Exception as error:
            for job in good:
                job.done.set_exception(error)
            return
        for job, vector, size in zip(good, vectors, sizes, strict=True):
            job.done.set_result(Embedded(vector, size))
