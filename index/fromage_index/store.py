"""The rows of a collection's segments with the changes since, read as one table."""

from __future__ import annotations

import itertools
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fromage_index.changes import Changes, read_changes
from fromage_index.errors import CollectionDamaged, ImageNotFound, ImageUnavailable
from fromage_index.manifest import MANIFEST, Manifest, check_content, read_manifest
from fromage_index.record import Metadata, StoredRecord
from fromage_index.segment import Float32, Segment

Rows = NDArray[np.int64]


class Store:
    """Rows are numbered through all segments, removed ones too; `alive` (R,) says which are not.

    Immutable, and safe to use from several threads. Opened after an `earlier` state of the same
    directory, it reads only what is new.
    """

    def __init__(self, directory: Path, earlier: Store | None = None) -> None:
        self.manifest, self.segments, self.changes = _open(directory, earlier)
        sizes = [segment.rows for segment in self.segments]
        self.starts = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        self._firsts = np.array([s.serials[0] for s in self.segments], dtype=np.int64)
        self._apply_changes(earlier)
        if self.manifest.removed != self.rows - int(self.alive.sum()):
            raise CollectionDamaged(directory / MANIFEST, "it counts the removed images wrongly")
        self._columns: dict[str, list[Any]] = {}
        self._columns_lock = threading.Lock()

    def __len__(self) -> int:
        """The images that can be found."""
        return self.manifest.images

    @property
    def rows(self) -> int:
        return int(self.starts[-1])

    @property
    def fields(self) -> frozenset[str]:
        """The metadata fields that at least one image has."""
        return frozenset(field for field, count in self._fields.items() if count > 0)

    @property
    def ids(self) -> tuple[str, ...]:
        """Of the images that can be found, by row."""
        named = itertools.chain.from_iterable(segment.ids for segment in self.segments)
        return tuple(itertools.compress(named, self.alive))

    @property
    def live_rows(self) -> Rows:
        return np.flatnonzero(self.alive)

    def id(self, row: int) -> str:
        number, local = self._locate(row)
        return self.segments[number].ids[local]

    def row(self, image: str) -> int:
        """Raises ImageNotFound."""
        row = self._find(image)
        if row is None:
            raise ImageNotFound(f"the collection {self.manifest.name!r} has no image {image!r}")
        return row

    def known_rows(self, images: Sequence[str]) -> list[int]:
        """Rows of those ids the collection has."""
        return [row for row in map(self._find, images) if row is not None]

    def rows_of_content(self, sha256: str) -> list[int]:
        """Rows whose image's file was this one, where that is known."""
        rows = [
            start + local
            for start, segment in zip(self.starts.tolist(), self.segments, strict=False)
            for local in segment.rows_with_content(sha256)
        ]
        return [row for row in rows if self.alive[row]]

    def serial(self, row: int) -> int:
        number, local = self._locate(row)
        return int(self.segments[number].serials[local])

    def rows_before(self, serial: int, count: int) -> Rows:
        """Up to `count` rows with smaller serial numbers, the newest first."""
        number = max(int(np.searchsorted(self._firsts, serial, side="left")) - 1, 0)
        end = 0
        if self.segments:
            serials = self.segments[number].serials
            end = int(self.starts[number]) + int(np.searchsorted(serials, serial, side="left"))
        return np.flatnonzero(self.alive[:end])[::-1][:count]

    def record(self, row: int) -> StoredRecord:
        number, local = self._locate(row)
        record = self.segments[number].record(local)
        amended = self.amended.get(row)
        return record if amended is None else replace(record, metadata=amended)

    def vectors(self, rows: Rows) -> Float32:
        """(n,) row numbers to (n, E) unit vectors."""
        out = np.empty((len(rows), self.manifest.dim), dtype=np.float32)
        owners = np.searchsorted(self.starts, rows, side="right") - 1
        for number in np.unique(owners):
            mine = owners == number
            out[mine] = self.segments[number].vectors[rows[mine] - self.starts[number]]
        return out

    def image_bytes(self, row: int) -> bytes:
        """The bytes of an image the collection holds; raises ImageUnavailable otherwise."""
        number, local = self._locate(row)
        record = self.segments[number].record(local)
        if record.length is None:
            raise ImageUnavailable(f"the collection does not hold image {record.id}")
        return self.segments[number].image_bytes(record)

    def column(self, field: str) -> list[Any]:
        """One metadata field of every row (None where absent), read once and kept."""
        with self._columns_lock:
            if field not in self._columns:
                columns = (segment.column(field) for segment in self.segments)
                column = list(itertools.chain.from_iterable(columns))
                for row, metadata in self.amended.items():
                    column[row] = metadata.get(field)
                self._columns[field] = column
            return self._columns[field]

    def _find(self, image: str) -> int | None:
        for number in reversed(range(len(self.segments))):
            local = self.segments[number].by_id.get(image)
            if local is not None and self.alive[self.starts[number] + local]:
                return int(self.starts[number]) + local
        return None

    def _locate(self, row: int) -> tuple[int, int]:
        """The number of a row's segment, and its place in there."""
        number = int(np.searchsorted(self.starts, row, side="right")) - 1
        return number, row - int(self.starts[number])

    def _apply_changes(self, earlier: Store | None) -> None:
        """From the first change on, or from where an earlier state of the same rows was."""
        self.alive = np.ones(self.rows, dtype=bool)
        self.amended: dict[int, Metadata] = {}
        self._fields: Counter[str] = Counter()
        segments, changes = self.segments, self.changes
        if earlier is not None and _continues(self, earlier):
            self.alive[: earlier.rows] = earlier.alive
            self.amended = dict(earlier.amended)
            self._fields = earlier._fields.copy()
            segments = segments[len(earlier.segments) :]
            changes = changes[len(earlier.changes) :]
        for segment in segments:
            self._fields.update(segment.fields)
        for some in changes:
            for serial, metadata in some.items():
                self._apply(serial, metadata)

    def _apply(self, serial: int, metadata: Metadata | None) -> None:
        row = self._row_of_serial(serial)
        if row is None or not self.alive[row]:
            return  # compacted since
        self._fields.subtract(self.record(row).metadata.keys())
        if metadata is None:
            self.alive[row] = False
            self.amended.pop(row, None)
        else:
            self.amended[row] = metadata
            self._fields.update(metadata.keys())

    def _row_of_serial(self, serial: int) -> int | None:
        number = int(np.searchsorted(self._firsts, serial, side="right")) - 1
        if number < 0:
            return None
        serials = self.segments[number].serials
        local = int(np.searchsorted(serials, serial))
        known = local < len(serials) and int(serials[local]) == serial
        return int(self.starts[number]) + local if known else None


def _continues(store: Store, earlier: Store) -> bool:
    return (
        store.segments[: len(earlier.segments)] == earlier.segments
        and store.changes[: len(earlier.changes)] == earlier.changes
    )


def _open(directory: Path, earlier: Store | None) -> tuple[Manifest, list[Segment], list[Changes]]:
    """What the manifest names; read again where it was replaced in between."""
    while True:
        manifest = read_manifest(directory)
        try:
            return manifest, *_files(directory, manifest, earlier)
        except (CollectionDamaged, FileNotFoundError):
            if read_manifest(directory) == manifest:
                raise


def _files(
    directory: Path, manifest: Manifest, earlier: Store | None
) -> tuple[list[Segment], list[Changes]]:
    segments, changes = {}, {}
    if earlier is not None and earlier.manifest.dim == manifest.dim:
        segments = {segment.entry: segment for segment in earlier.segments}
        changes = dict(zip(earlier.manifest.changes, earlier.changes, strict=True))
    return (
        [segments.get(e) or Segment(directory, e, manifest.dim) for e in manifest.segments],
        [changes.get(e) or read_changes(directory, e) for e in manifest.changes],
    )


def verify(directory: Path) -> Manifest:
    """Reads every byte of every file against its checksum; raises CollectionDamaged."""
    while True:
        manifest = read_manifest(directory)
        try:
            for entry in manifest.files():
                check_content(directory, entry)
            Store(directory)
            return manifest
        except (CollectionDamaged, FileNotFoundError):
            if read_manifest(directory) == manifest:
                raise  # else files went because they were replaced
