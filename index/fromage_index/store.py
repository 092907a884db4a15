"""The rows of a collection's segments, read as one table."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fromage_index.errors import CollectionDamaged, ImageNotFound, ImageUnavailable
from fromage_index.manifest import Manifest, check_content, read_manifest
from fromage_index.record import StoredRecord
from fromage_index.segment import Float32, Segment

Rows = NDArray[np.int64]


class Store:
    """Rows are numbered through all segments; `ids` has their ids.

    Safe to use from several threads.
    """

    def __init__(self, directory: Path) -> None:
        self.manifest, self.segments = _open_segments(directory)
        sizes = [segment.rows for segment in self.segments]
        self._starts = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        ids: list[str] = []
        self._fields: set[str] = set()
        for record in self._records():
            ids.append(record.id)
            self._fields.update(record.metadata)
        self.ids = tuple(ids)
        self._rows = {name: row for row, name in enumerate(ids)}
        self._columns: dict[str, list[Any]] = {}
        self._columns_lock = threading.Lock()

    def __len__(self) -> int:
        return int(self._starts[-1])

    @property
    def fields(self) -> frozenset[str]:
        """The metadata fields that at least one image has."""
        return frozenset(self._fields)

    def row(self, image: str) -> int:
        """Raises ImageNotFound."""
        try:
            return self._rows[image]
        except KeyError as error:
            raise ImageNotFound(
                f"the collection {self.manifest.name!r} has no image {image!r}"
            ) from error

    def known_rows(self, images: Sequence[str]) -> list[int]:
        """Rows of those ids the collection has."""
        return [self._rows[image] for image in images if image in self._rows]

    def record(self, row: int) -> StoredRecord:
        segment, local = self._locate(row)
        return segment.record(local)

    def vectors(self, rows: Rows) -> Float32:
        """(n,) row numbers to (n, E) unit vectors."""
        out = np.empty((len(rows), self.manifest.dim), dtype=np.float32)
        owners = np.searchsorted(self._starts, rows, side="right") - 1
        for number in np.unique(owners):
            mine = owners == number
            out[mine] = self.segments[number].vectors[rows[mine] - self._starts[number]]
        return out

    def image_bytes(self, row: int) -> bytes:
        """The bytes of an image the collection holds; raises ImageUnavailable otherwise."""
        segment, local = self._locate(row)
        record = segment.record(local)
        if record.length is None:
            raise ImageUnavailable(f"the collection does not hold image {record.id}")
        return segment.image_bytes(record)

    def column(self, field: str) -> list[Any]:
        """One metadata field of every row (None where absent), read once and kept."""
        with self._columns_lock:
            if field not in self._columns:
                self._columns[field] = [r.metadata.get(field) for r in self._records()]
            return self._columns[field]

    def _records(self) -> Iterator[StoredRecord]:
        return itertools.chain.from_iterable(segment.records() for segment in self.segments)

    def _locate(self, row: int) -> tuple[Segment, int]:
        number = int(np.searchsorted(self._starts, row, side="right")) - 1
        return self.segments[number], row - int(self._starts[number])


def _open_segments(directory: Path) -> tuple[Manifest, list[Segment]]:
    """The manifest and its segments; read again where they were replaced in between."""
    while True:
        manifest = read_manifest(directory)
        try:
            return manifest, [Segment(directory, e, manifest.dim) for e in manifest.segments]
        except CollectionDamaged:
            if read_manifest(directory).generation == manifest.generation:
                raise


def verify(directory: Path) -> Manifest:
    """Reads every byte of every file against its checksum; raises CollectionDamaged."""
    manifest = read_manifest(directory)
    for segment in manifest.segments:
        for entry in segment.files():
            check_content(directory, entry)
    return manifest
