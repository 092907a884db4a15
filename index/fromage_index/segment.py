"""A segment: an immutable run of rows, as three files (vectors, records, images)."""

from __future__ import annotations

import hashlib
import mmap
import os
import threading
import weakref
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fromage_index.errors import CollectionDamaged
from fromage_index.hashed import HashedFile
from fromage_index.manifest import SegmentEntry, check_content, check_length
from fromage_index.record import StoredRecord

Float32 = NDArray[np.float32]


class Segment:
    """Reads one segment. Vectors and records are checked at opening, an image when it is read.

    What is said of a row here is what was written; the changes since are the Store's. `ids`,
    `serials` (rising) and `by_id` are by row, `fields` counts the rows that have a metadata
    field. Safe to use from several threads.
    """

    def __init__(self, directory: Path, entry: SegmentEntry, dim: int) -> None:
        self.entry = entry
        self.rows = entry.rows
        self.vectors = _open_vectors(check_content(directory, entry.vectors), entry.rows, dim)
        records_file = check_content(directory, entry.records)
        self._lines, self._ends = _open_lines(records_file)
        if len(self._ends) != entry.rows:
            raise CollectionDamaged(
                records_file, f"{len(self._ends)} records instead of {entry.rows}"
            )
        self._read_records(entry)
        self._columns: dict[str, list[Any]] = {}
        self._lock = threading.Lock()
        self._images: Path | None = None
        if entry.images is not None:
            self._images = check_length(directory, entry.images)
            self._descriptor = os.open(self._images, os.O_RDONLY)
            weakref.finalize(self, os.close, self._descriptor)

    def record(self, row: int) -> StoredRecord:
        start = 0 if row == 0 else int(self._ends[row - 1]) + 1
        return StoredRecord.parse(self._lines[start : int(self._ends[row])])

    def records(self) -> Iterator[StoredRecord]:
        """All records, in order."""
        start = 0
        for end in self._ends.tolist():
            yield StoredRecord.parse(self._lines[start:end])
            start = end + 1

    def column(self, field: str) -> list[Any]:
        """One metadata field of every row (None where absent), read once and kept."""
        with self._lock:
            if field not in self._columns:
                self._columns[field] = [r.metadata.get(field) for r in self.records()]
            return self._columns[field]

    def rows_with_content(self, sha256: str) -> list[int]:
        """Rows whose image's file had this SHA-256, where it is known."""
        likely = np.flatnonzero(self._contents == _beginning(sha256)).tolist()
        return [row for row in likely if self.record(row).sha256 == sha256]

    def image_bytes(self, record: StoredRecord) -> bytes:
        """A held image's bytes, checked; raises CollectionDamaged."""
        if self._images is None or record.offset is None or record.length is None:
            raise ValueError(f"record {record.id} holds no image")
        data = os.pread(self._descriptor, record.length, record.offset)
        if hashlib.sha256(data).hexdigest() != record.sha256:
            raise CollectionDamaged(self._images, f"image {record.id} differs from its SHA-256")
        return data

    def _read_records(self, entry: SegmentEntry) -> None:
        ids: list[str] = []
        self.serials = np.arange(entry.first, entry.first + entry.rows, dtype=np.int64)
        self.fields: Counter[str] = Counter()
        # Of every SHA-256 its beginning: eight bytes a row, and quickly looked through.
        self._contents = np.zeros(entry.rows, dtype=np.uint64)
        for row, record in enumerate(self.records()):
            ids.append(record.id)
            self.fields.update(record.metadata.keys())
            if record.serial is not None:
                self.serials[row] = record.serial
            if record.sha256 is not None:
                self._contents[row] = _beginning(record.sha256)
        self.ids = tuple(ids)
        self.by_id = {name: row for row, name in enumerate(ids)}


class SegmentWriter:
    """Writes one segment's files. `add` takes unit vectors; `finish` makes them durable.

    `first` is the first row's serial number.
    """

    def __init__(self, directory: Path, name: str, first: int) -> None:
        self.rows = 0
        self.first = first
        self._directory = directory
        self._name = name
        self._vectors: list[Float32] = []
        self._records = HashedFile(directory / f"{name}.records.jsonl")
        self._images: HashedFile | None = None

    def add(self, record: StoredRecord, vector: Float32, data: bytes | None) -> None:
        if data is not None:
            if self._images is None:
                self._images = HashedFile(self._directory / f"{self._name}.images.bin")
            record = replace(
                record,
                offset=self._images.write(data),
                length=len(data),
                sha256=hashlib.sha256(data).hexdigest(),
            )
        self._records.write(record.line())
        self._vectors.append(vector)
        self.rows += 1

    def finish(self) -> SegmentEntry:
        vectors = HashedFile(self._directory / f"{self._name}.vectors.npy")
        np.save(vectors, np.stack(self._vectors).astype("<f4"), allow_pickle=False)
        return SegmentEntry(
            rows=self.rows,
            first=self.first,
            vectors=vectors.finish(),
            records=self._records.finish(),
            images=self._images.finish() if self._images is not None else None,
        )

    def abandon(self) -> None:
        for file in (self._records, self._images):
            if file is not None:
                file.close()


def _beginning(sha256: str) -> np.uint64:
    return np.uint64(int(sha256[:16], 16))


def _open_vectors(file: Path, rows: int, dim: int) -> Float32:
    vectors: Float32 = np.load(file, mmap_mode="r", allow_pickle=False)
    if vectors.shape != (rows, dim) or vectors.dtype != np.dtype("<f4"):
        raise CollectionDamaged(
            file, f"it holds {vectors.dtype} {vectors.shape}, not float32 {(rows, dim)}"
        )
    return vectors


def _open_lines(file: Path) -> tuple[mmap.mmap, NDArray[np.int64]]:
    """The mapped file and where each of its lines ends."""
    with file.open("rb") as opened:
        lines = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
    ends = np.flatnonzero(np.frombuffer(lines, dtype=np.uint8) == ord("\n"))
    return lines, ends.astype(np.int64)
