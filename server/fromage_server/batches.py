"""A thread that takes its work in batches."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

Job = TypeVar("Job")
_log = logging.getLogger(__name__)


class Batches(Generic[Job]):
    """One thread, started for the first job. It hands ``work`` what has gathered meanwhile, in its
    order and as long as ``room`` says that the batch takes one more. Any thread may call.

    ``begin`` is called in the thread before anything else, and does no more than prepare it: where
    it fails, that is logged. ``work`` doesn't raise; if it does all the same, its batch is lost,
    and what waits starts another thread.
    """

    def __init__(
        self,
        name: str,
        work: Callable[[list[Job]], None],
        room: Callable[[Sequence[Job]], bool],
        begin: Callable[[], None] = lambda: None,
    ) -> None:
        self._name, self._work, self._room, self._begin = name, work, room, begin
        self._changed = threading.Condition()  # guards the three below
        self._jobs: deque[Job] = deque()
        self._thread: threading.Thread | None = None
        self._closed = False

    @property
    def closed(self) -> bool:
        return self._closed

    def put(self, *jobs: Job) -> bool:
        """At once, so that they can be one batch. False where they will not be done: after
        ``close``."""
        with self._changed:
            if self._closed:
                return False
            self._jobs += jobs
            if self._thread is None:
                self._start()
            self._changed.notify()
            return True

    def close(self, timeout: float | None = None) -> None:
        """No more jobs; those that wait are done first, and waited for, ``timeout`` seconds at most
        where it is given."""
        with self._changed:
            self._closed = True
            self._changed.notify()
            thread = self._thread
        if thread is not None:
            thread.join(timeout)

    def _start(self) -> None:
        self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._begin()
        except Exception:
            _log.exception("%s: could not be prepared", self._name)
        try:
            while batch := self._next():
                self._work(batch)
                del batch  # what it holds is not kept until there is another
        finally:
            with self._changed:
                self._thread = None
                if self._jobs:  # it failed, and others came meanwhile
                    self._start()

    def _next(self) -> list[Job]:
        """Empty at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._jobs or self._closed)
            batch: list[Job] = []
            while self._jobs and (not batch or self._room(batch)):
                batch.append(self._jobs.popleft())
            return batch
