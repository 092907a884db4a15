"""Pictures on their way into a collection: decoded and embedded beside everything else."""

from __future__ import annotations

import queue
import threading
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from fromage_index.decode import decode_image
from fromage_index.errors import UnreadableImage
from fromage_server.errors import ApiError
from fromage_server.media import SourceImage
from fromage_server.workers import compute_alone

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
    """One thread, which takes what has gathered in one pass, whoever it is from. Neither the
    prompts' images nor the replies wait for it. Any thread may call."""

    def __init__(self, embedder: ImageEmbedder) -> None:
        self._embedder = embedder
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._lock = threading.Lock()  # guards the three below
        self._waiting_bytes = 0
        self._thread: threading.Thread | None = None
        self._closed = False

    def submit(self, image: SourceImage) -> Future[Embedded]:
        """The future raises ApiError for what is no picture, and CancelledError where the server
        is stopping. Raises ApiError where too much is waiting."""
        job = _Job(image)
        with self._lock:
            if self._closed:
                job.done.cancel()
                return job.done
            if self._waiting_bytes and self._waiting_bytes + len(image.data) > MAX_WAITING_BYTES:
                raise ApiError(
                    "queue_full",
                    f"{self._waiting_bytes:,} bytes of pictures are waiting already; try again",
                    retry_after=2,
                )
            self._waiting_bytes += len(image.data)
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(
                    target=self._work, name="fromage-ingest", daemon=True
                )
                self._thread.start()
            self._jobs.put(job)
        return job.done

    def close(self) -> None:
        """No more pictures; those that wait are embedded first."""
        with self._lock:
            self._closed = True
            thread = self._thread
        if thread is not None:
            self._jobs.put(None)
            thread.join()

    def _work(self) -> None:
        compute_alone()
        while (job := self._jobs.get()) is not None:
            jobs = [job]
            while len(jobs) < _BATCH and not self._jobs.empty():
                following = self._jobs.get()
                if following is None:
                    self._jobs.put(None)
                    break
                jobs.append(following)
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
