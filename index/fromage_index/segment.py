"""A segment: an immutable run of rows, as three files (vectors, records, images)."""

from __future__ import annotations

import hashlib
import mmap
import os
import weakref
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from fromage_index.errors import CollectionDamaged
from fromage_index.manifest import FileEntry, SegmentEntry, check_content, check_length
from fromage_index.record import StoredRecord

Float32 = NDArray[np.float32]


class Segment:
    """Reads one segment. Vectors and records are checked at opening, an image when it is read.

    Safe to use from several threads.
    """

    def __init__(self, directory: Path, entry: SegmentEntry, dim: int) -> None:
        self.rows = entry.rows
        self.vectors = _open_vectors(check_content(directory, entry.vectors), entry.rows, dim)
        records_file = check_content(directory, entry.records)
        self._lines, self._ends = _open_lines(records_file)
        if len(self._ends) != entry.rows:
            raise CollectionDamaged(
                records_file, f"{len(self._ends)} records instead of {entry.rows}"
            )
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

    def image_bytes(self, record: StoredRecord) -> bytes:
        """A held image's bytes, checked; raises CollectionDamaged."""
        if self._images is None or record.offset is None or record.length is None:
            raise ValueError(f"record {record.id} holds no image")
        data = os.pread(self._descriptor, record.length, record.offset)
        if hashlib.sha256(data).hexdigest() != record.sha256:
            raise CollectionDamaged(self._images, f"image {record.id} differs from its SHA-256")
        return data


class SegmentWriter:
    """Writes one segment's files. `add` takes unit vectors; `finish` makes them durable."""

    def __init__(self, directory: Path, name: str) -> None:
        self.rows = 0
        self._directory = directory
        self._name = name
        self._vectors: list[Float32] = []
        self._records = _HashedFile(directory / f"{name}.records.jsonl")
        self._images: _HashedFile | None = None

    def add(self, record: StoredRecord, vector: Float32, data: bytes | None) -> None:
        if data is not None:
            if self._images is None:
                self._images = _HashedFile(self._directory / f"{self._name}.images.bin")
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
        vectors = _HashedFile(self._directory / f"{self._name}.vectors.npy")
        np.save(vectors, np.stack(self._vectors).astype("<f4"), allow_pickle=False)
        return SegmentEntry(
            rows=self.rows,
            vectors=vectors.finish(),
            records=self._records.finish(),
            images=self._images.finish() if self._images is not None else None,
        )

    def abandon(self) -> None:
        for file in (self._records, self._images):
            if file is not None:
                file.close()


class _HashedFile:
    """A file being written, its SHA-256 kept along."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: BinaryIO = path.open("xb")
        self._digest = hashlib.sha256()
        self._bytes = 0

    def write(self, data: bytes) -> int:
        """Appends and returns where the data begins."""
        offset = self._bytes
        self._file.write(data)
        self._digest.update(data)
        self._bytes += len(data)
        return offset

    def finish(self) -> FileEntry:
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        return FileEntry(name=self._path.name, bytes=self._bytes, sha256=self._digest.hexdigest())

    def close(self) -> None:
        self._file.close()


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
