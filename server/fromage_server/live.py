"""A collection that changes while it is searched."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

from fromage_index.collection import Collection
from fromage_index.compact import compact, due
from fromage_index.editor import Change, Outcome, edit
from fromage_index.errors import IndexFailure
from fromage_index.manifest import MANIFEST
from fromage_server.batches import Batches

log = logging.getLogger(__name__)
# What one commit holds; the rest waits for the next.
_MOST_CHANGES = 1024


@dataclass(frozen=True)
class Commit:
    """The collection as it was right after the changes, and what became of each of them."""

    collection: Collection
    outcomes: list[Outcome]


@dataclass(eq=False)
class _Job:
    changes: Sequence[Change]
    done: Future[Commit] = field(default_factory=Future)


def _has_room(jobs: Sequence[_Job]) -> bool:
    return sum(len(job.changes) for job in jobs) < _MOST_CHANGES


class LiveCollection:
    """Searches use an immutable snapshot, which is replaced whole. One thread makes the changes;
    what comes while it writes is its next commit. Any thread may call.

    `droppable` says that the collection was made in the server's own directory.
    """

    def __init__(self, name: str, collection: Collection, *, droppable: bool = False) -> None:
        self.name = name
        self.droppable = droppable
        self._snapshot = collection
        self._seen = b""
        self._lock = threading.Lock()  # guards the two above, and the one below
        self._compacting: threading.Thread | None = None
        self._batches = Batches[_Job](f"fromage-edit-{name}", self._commit, _has_room)

    @property
    def snapshot(self) -> Collection:
        """As it was last seen; reads no file."""
        return self._snapshot

    @property
    def gone(self) -> bool:
        """Whether another process has dropped it: its directory isn't there any more. Asks the file
        system; a disk that doesn't answer says nothing about it."""
        try:
            self._snapshot.directory.stat()
        except (FileNotFoundError, NotADirectoryError):
            return True
        except OSError:
            return False
        return False

    def latest(self) -> Collection:
        """As it is now, whoever changed it: another process may have. Reads files."""
        try:
            manifest = (self._snapshot.directory / MANIFEST).read_bytes()
        except OSError:
            return self._snapshot  # being dropped, or its disk is away: what is open can be read
        if manifest != self._seen:
            with self._lock:
                if manifest != self._seen:
                    self._refresh()
                    self._seen = manifest
        return self._snapshot

    def submit(self, changes: Sequence[Change]) -> Future[Commit]:
        """Done when the changes have survived and every search sees them. The future raises what
        `edit` raises, and CancelledError where the server is stopping."""
        job = _Job(changes)
        if not self._batches.put(job):
            job.done.cancel()
        return job.done

    def close(self) -> None:
        """No more changes; those that were submitted are made first."""
        self._batches.close()

    def _commit(self, jobs: Sequence[_Job]) -> None:
        jobs = [job for job in jobs if job.done.set_running_or_notify_cancel()]
        try:
            changes = [change for job in jobs for change in job.changes]
            collection, outcomes = edit(self._snapshot, changes)
        except Exception as error:
            for job in jobs:
                job.done.set_exception(error)
            return
        self._publish(collection)
        for job in jobs:
            mine, outcomes = outcomes[: len(job.changes)], outcomes[len(job.changes) :]
            job.done.set_result(Commit(collection, mine))
        self._compact_in_time(collection)

    def _compact_in_time(self, collection: Collection) -> None:
        """In a thread of its own: the next change doesn't wait for it."""
        if due(collection.store) is None:
            return
        with self._lock:
            if self._compacting is None and not self._batches.closed:
                self._compacting = threading.Thread(
                    target=self._compact, name=f"fromage-compact-{self.name}", daemon=True
                )
                self._compacting.start()

    def _compact(self) -> None:
        try:
            while not self._batches.closed:
                collection = self.latest()
                run = due(collection.store)
                if run is None or not compact(collection, run):
                    break
        except (IndexFailure, OSError) as error:
            if not self._batches.closed:
                log.warning("collection %s could not be compacted: %s", self.name, error)
        finally:
            with self._lock:
                self._compacting = None
            self.latest()

    def _publish(self, collection: Collection) -> None:
        new = collection.manifest
        with self._lock:
            known = self._snapshot.manifest
            if new.generation != known.generation or new.version > known.version:
                self._snapshot = collection

    def _refresh(self) -> None:
        """Keeps the snapshot where what is on disk now cannot take its place."""
        try:
            fresh = self._snapshot.refreshed()
        except IndexFailure as error:
            log.error("collection %s is served as it was: %s", self.name, error)
            return
        if (fresh.provenance, fresh.dim) != (self._snapshot.provenance, self._snapshot.dim):
            log.error("collection %s is served as it was: it is of another bundle now", self.name)
            return
        if fresh is not self._snapshot:
            log.info("collection %s: %s images now", self.name, f"{fresh.size:,}")
        self._snapshot = fresh
