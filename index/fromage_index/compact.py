"""Compaction: many small segments become few, and what was removed leaves the disk.

Segments are immutable, so they are merged beside the collection while it is searched and
changed; only putting the result in their place takes the lock.
"""

from __future__ import annotations

import math
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np

from fromage_index.changes import PREFIX as CHANGES
from fromage_index.changes import write_changes
from fromage_index.collection import Collection
from fromage_index.errors import CollectionBusy
from fromage_index.locking import take_lock, writing
from fromage_index.manifest import (
    ChangesEntry,
    Manifest,
    SegmentEntry,
    read_manifest,
    sync_directory,
    write_manifest,
)
from fromage_index.record import Metadata
from fromage_index.segment import Segment, SegmentWriter
from fromage_index.store import Store
from fromage_index.writer import COMPACTING, SEGMENT, SEGMENT_ROWS, remove_unnamed

# Segments that are left alone: full ones.
SEGMENT_BYTES = 1 << 30
# So many small segments, or files of changes, are worth merging.
FAN_OUT = 8
MAX_CHANGES = 16
_MANY = 64


def due(store: Store) -> slice | None:
    """The run of segments that should be merged by now, None where there is none; an empty run
    where only files of changes should be.

    A collection of n images added one by one has O(log n) segments, and each of them was
    written O(log n) times.
    """
    count = len(store.segments)
    tail, level = count, 0
    while tail > 0:
        while (
            tail > 0
            and not _full(store.segments[tail - 1], store)
            and (_level(store.segments[tail - 1]) <= level)
        ):
            tail -= 1
        if count - tail >= FAN_OUT * (level + 1):
            return slice(tail, count)
        if tail == 0 or _full(store.segments[tail - 1], store):
            break
        level += 1
    for number, segment in enumerate(store.segments):
        if _outdated(store, number) >= max(_MANY, segment.rows / 2):
            return slice(number, number + 1)
    return slice(count, count) if len(store.changes) >= MAX_CHANGES else None


def everything(store: Store) -> slice | None:
    """The run that leaves nothing to merge and nothing that was removed; None where that is so."""
    count = len(store.segments)
    clean = (
        number
        for number, segment in enumerate(store.segments)
        if _outdated(store, number) or not _full(segment, store)
    )
    first = next(clean, count)
    if first == count - 1 and not _outdated(store, first):
        first = count  # one small segment is as few as can be
    return slice(first, count) if first < count or store.changes else None


def compact(collection: Collection, run: slice) -> bool:
    """Merges a run of the collection's segments, and all its files of changes.

    False where the collection was built or compacted by another meanwhile, and nothing is done.
    Raises CollectionBusy, CollectionDamaged, OSError; the collection is then as it was.
    """
    store, directory = collection.store, collection.directory
    with _workplace(directory) as work:
        name = f"{store.manifest.generation}-v{store.manifest.version:08d}-{secrets.token_hex(4)}"
        made = _merge(store, run, work, f"{SEGMENT}{name}")
        left = _left_changes(store, run)
        changes = (write_changes(work, f"{CHANGES}{name}", left),) if left else ()
        with writing(directory):
            after = _replaced(store, run, read_manifest(directory), made, changes)
            if after is None:
                return False
            for file in work.iterdir():
                if file.name.startswith((SEGMENT, CHANGES)):
                    file.rename(directory / file.name)
            sync_directory(directory)
            write_manifest(directory, after)
            remove_unnamed(directory, after)
    return True


def _level(segment: Segment) -> int:
    return int(math.log(segment.rows, FAN_OUT))


def _full(segment: Segment, store: Store) -> bool:
    images = segment.entry.images
    return segment.rows >= SEGMENT_ROWS or (images is not None and images.bytes >= SEGMENT_BYTES)


def _outdated(store: Store, number: int) -> int:
    """Rows of a segment that were removed or amended since it was written."""
    start, end = int(store.starts[number]), int(store.starts[number + 1])
    removed = end - start - int(store.alive[start:end].sum())
    return removed + sum(start <= row < end for row in store.amended)


def _merge(store: Store, run: slice, work: Path, name: str) -> list[SegmentEntry]:
    """The run's images as new segments; their changes are in there."""
    made: list[SegmentEntry] = []
    writer: SegmentWriter | None = None
    held = 0
    try:
        for segment, start in zip(store.segments[run], store.starts[run.start :], strict=False):
            for local in np.flatnonzero(store.alive[start : start + segment.rows]).tolist():
                serial = int(segment.serials[local])
                if writer is None:
                    writer = SegmentWriter(work, f"{name}-{len(made):05d}", serial)
                record = store.record(int(start) + local)
                follows = serial == writer.first + writer.rows
                data = segment.image_bytes(record) if record.length is not None else None
                record = replace(record, serial=None if follows else serial)
                writer.add(record, np.array(segment.vectors[local]), data)
                held += len(data or b"")
                if writer.rows >= SEGMENT_ROWS or held >= SEGMENT_BYTES:
                    made.append(writer.finish())
                    writer, held = None, 0
        if writer is not None:
            made.append(writer.finish())
            writer = None
    finally:
        if writer is not None:
            writer.abandon()
    return made


def _left_changes(store: Store, run: slice) -> dict[int, Metadata | None]:
    """Of the rows outside the run."""
    start, end = int(store.starts[run.start]), int(store.starts[run.stop])
    removed: dict[int, Metadata | None] = dict.fromkeys(np.flatnonzero(~store.alive).tolist())
    by_row = {**removed, **store.amended}
    return {store.serial(row): by_row[row] for row in sorted(by_row) if not start <= row < end}


def _replaced(
    store: Store,
    run: slice,
    now: Manifest,
    made: list[SegmentEntry],
    changes: tuple[ChangesEntry, ...],
) -> Manifest | None:
    """The manifest of today with the run's segments and changes replaced; None where they are not
    in it any more."""
    before = store.manifest
    untouched = (
        now.generation == before.generation
        and now.segments[: len(before.segments)] == before.segments
        and now.changes[: len(before.changes)] == before.changes
    )
    if not untouched:
        return None
    start, end = int(store.starts[run.start]), int(store.starts[run.stop])
    gone = end - start - int(store.alive[start:end].sum())
    return now.model_copy(
        update={
            "version": now.version + 1,
            "segments": (*now.segments[: run.start], *made, *now.segments[run.stop :]),
            "changes": (*changes, *now.changes[len(before.changes) :]),
            "removed": now.removed - gone,
        }
    )


@contextmanager
def _workplace(directory: Path) -> Iterator[Path]:
    """A folder in the collection's own, which a later compaction removes after a crash."""
    for left in directory.glob(f"{COMPACTING}*"):
        try:
            os.close(take_lock(left))
        except CollectionBusy:
            continue
        shutil.rmtree(left, ignore_errors=True)
    work = directory / f"{COMPACTING}{secrets.token_hex(4)}"
    work.mkdir()
    lock = take_lock(work)
    try:
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)
        os.close(lock)
