"""A collection of images that [RET] queries are ranked against."""

from __future__ import annotations

import functools
import os
from collections.abc import Collection as Ids
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np

from fromage_index.decode import decode_image, inspect_image
from fromage_index.errors import (
    BadFilter,
    BadQuery,
    DimensionMismatch,
    ImageUnavailable,
    IndexFailure,
    UnreadableImage,
)
from fromage_index.files import inside, open_image_file, read_image_file
from fromage_index.filter import Filter
from fromage_index.flat import Device
from fromage_index.manifest import Manifest, Provenance, read_manifest
from fromage_index.parts import PartedIndex
from fromage_index.ranking import rank, scan
from fromage_index.record import ImageRecord, StoredRecord
from fromage_index.segment import Float32
from fromage_index.sniff import sniff_content_type
from fromage_index.store import Rows, Store
from fromage_index.thumbnails import CONTENT_TYPE, ThumbnailCache, ladder, shrink
from fromage_index.writer import THUMBNAILS

_UNIT_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Hit:
    """A found image: `score` is the cosine with the query, `row` its place in the collection."""

    id: str
    score: float
    row: int


@dataclass(frozen=True)
class Page:
    """Some of a collection's images, the newest first; `next` is where the following page begins,
    None where there is none."""

    images: list[ImageRecord]
    next: int | None


class Collection:
    """An open collection as it was at one moment: immutable, and safe to use from several
    threads. Changes made since are in a `refreshed` one."""

    def __init__(
        self, directory: Path, store: Store, index: PartedIndex, device: Device = "auto"
    ) -> None:
        self.directory = directory
        self.store = store
        self._index = index
        self._device = device
        self._root = Path(store.manifest.root) if store.manifest.root is not None else None
        self._thumbnails = ThumbnailCache(directory / THUMBNAILS / store.manifest.generation)
        self._opens = functools.lru_cache(maxsize=65_536)(_decodes)
        # Of the store, not of itself: what is dropped goes at once, index and all.
        self._matching = functools.lru_cache(maxsize=8)(functools.partial(_matching, store))

    @classmethod
    def open(cls, path: str | Path, *, device: Device = "auto") -> Self:
        """Reads and checks vectors and records, and builds the search index in memory.

        Raises CollectionNotFound, CollectionDamaged, FaissInstallation.
        """
        directory = Path(path)
        store = Store(directory)
        return cls(directory, store, PartedIndex(store, device), device)

    def refreshed(self) -> Self:
        """As it is on disk now, itself where nothing has changed; reads only what is new.

        Raises CollectionNotFound, CollectionDamaged.
        """
        if read_manifest(self.directory) == self.manifest:
            return self
        store = Store(self.directory, self.store)
        same_vectors = store.manifest.dim == self.dim
        index = PartedIndex(store, self._device, self._index if same_vectors else None)
        fresh = type(self)(self.directory, store, index, self._device)
        fresh._opens = self._opens
        return fresh

    @property
    def manifest(self) -> Manifest:
        return self.store.manifest

    @property
    def name(self) -> str:
        return self.manifest.name

    @property
    def dim(self) -> int:
        return self.manifest.dim

    @property
    def size(self) -> int:
        return len(self.store)

    def __contains__(self, id: str) -> bool:
        return bool(self.store.known_rows([id]))

    @property
    def ids(self) -> tuple[str, ...]:
        """Every image's id, in the order in which they were added."""
        return self.store.ids

    @property
    def provenance(self) -> Provenance:
        return self.manifest.provenance

    @property
    def created_with(self) -> str:
        return self.manifest.created_with

    def search(
        self,
        queries: Float32,
        k: int,
        *,
        exclude: Ids[str] = (),
        filter: Filter | None = None,
        min_score: float | None = None,
    ) -> list[list[Hit]]:
        """For each of (Q, E) unit queries its `k` best images, fewer where there are no more.

        Exact cosine ranking; equal scores keep the collection's order. `exclude` are ids (unknown
        ones do no harm), `min_score` a cosine. Raises BadQuery, BadFilter, DimensionMismatch.
        """
        queries = self._check(queries, k, min_score)
        without = set(self.store.known_rows(list(exclude)))
        if filter is None:
            ranked = rank(self.store, self._index, queries, k, without=without)
        else:
            self.check_filter(filter)
            rows = self._matching(filter)
            ranked = scan(self.store, queries, k, rows[~np.isin(rows, list(without))])
        floor = -1.0 if min_score is None else min_score
        return [
            [Hit(self.store.id(row), score, row) for row, score in one if score >= floor]
            for one in ranked
        ]

    def check_filter(self, filter: Filter) -> None:
        """Raises BadFilter where it asks for a field that no image has."""
        for condition in filter.conditions:
            if condition.field not in self.store.fields:
                known = ", ".join(sorted(self.store.fields)) or "none"
                raise BadFilter(condition.field, f"no image has it; the fields are: {known}")

    def page(self, limit: int, after: int | None = None) -> Page:
        """Up to `limit` images, the newest first, from the start or where a page said `next`.

        Images added meanwhile belong to no later page, and removed ones leave no gap.
        """
        rows = self.store.rows_before(
            self.manifest.next_serial if after is None else after, limit + 1
        )
        images = [self._describe(self.store.record(int(row))) for row in rows[:limit]]
        more = len(rows) > limit
        return Page(images, self.store.serial(int(rows[limit - 1])) if more else None)

    def with_content(self, sha256: str) -> str | None:
        """The id of the image whose file was this one, where it is known."""
        rows = self.store.rows_of_content(sha256)
        return self.store.id(rows[0]) if rows else None

    def image(self, id: str) -> ImageRecord:
        """Raises ImageNotFound. The size of a file only referenced is read from its header."""
        return self._describe(self.store.record(self.store.row(id)))

    def _describe(self, record: StoredRecord) -> ImageRecord:
        path = self._path(record)
        width, height, content_type = record.width, record.height, record.content_type
        if path is not None and width is None:
            try:
                with open_image_file(path) as file:
                    info = inspect_image(file)
                width, height, content_type = info.width, info.height, info.content_type
            except UnreadableImage:
                pass  # stays unknown; `readable` says so
        return ImageRecord(
            record.id, record.key, path, record.url, width, height, content_type, record.metadata
        )

    def open_bytes(self, id: str) -> tuple[bytes, str]:
        """The image as it was indexed, with its content type.

        Raises ImageNotFound, ImageUnavailable, UnreadableImage, CollectionDamaged.
        """
        row = self.store.row(id)
        record = self.store.record(row)
        if record.length is not None:
            data = self.store.image_bytes(row)
        else:
            data = read_image_file(self._require_path(record))
        content_type = sniff_content_type(data)
        if content_type is None:
            raise UnreadableImage(f"the file of image {id} is not an image any more")
        return data, content_type

    def thumbnail(self, id: str, size: int) -> tuple[bytes, str]:
        """A JPEG about `size` pixels on its longer side. Raises as `open_bytes` does."""
        record = self.store.record(self.store.row(id))
        changed = 0.0
        if record.length is None:
            changed = _changed(self._require_path(record))
        step = ladder(size)
        kept = self._thumbnails.load(id, step, changed)
        if kept is None:
            kept = shrink(decode_image(self.open_bytes(id)[0]), step)
            self._thumbnails.save(id, step, kept)
        return kept, CONTENT_TYPE

    def forget_thumbnails(self, id: str) -> None:
        self._thumbnails.remove(id)

    def readable(self, id: str) -> bool:
        """Whether the image can be shown: it decodes, or is known by a URL, which isn't tried."""
        row = self.store.row(id)
        record = self.store.record(row)
        if record.length is not None:
            try:
                return bool(self.store.image_bytes(row))
            except IndexFailure:
                return False
        path = self._path(record)
        if path is None:
            return record.url is not None
        try:
            status = os.stat(path)
        except OSError:
            return False
        return self._opens(path, status.st_mtime_ns, status.st_size)

    def _path(self, record: StoredRecord) -> Path | None:
        if record.path is None or self._root is None:
            return None
        return inside(self._root, record.path)

    def _require_path(self, record: StoredRecord) -> Path:
        path = self._path(record)
        if path is None:
            where = f"only known as {record.url}" if record.url else "without a file"
            raise ImageUnavailable(f"image {record.id} ({record.key}) is {where}")
        return path

    def _check(self, queries: Float32, k: int, min_score: float | None) -> Float32:
        if k < 1:
            raise BadQuery("k", f"{k} is too small; at least 1")
        if min_score is not None and not -1.0 <= min_score <= 1.0:
            raise BadQuery("min_score", f"{min_score} is no cosine; from -1 to 1")
        if queries.ndim != 2 or queries.shape[1] != self.dim:
            raise DimensionMismatch(
                f"queries have shape {queries.shape}; {self.name!r} takes (n, {self.dim})"
            )
        lengths = np.linalg.norm(queries.astype(np.float64), axis=1)
        if not (np.abs(lengths - 1.0) < _UNIT_TOLERANCE).all():
            raise BadQuery("queries", "a query embedding has not unit length, or holds NaN")
        return np.ascontiguousarray(queries, dtype=np.float32)


def _changed(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError as error:
        raise ImageUnavailable(f"{path.name} cannot be read ({error.strerror})") from error


def _decodes(path: Path, mtime_ns: int, size: int) -> bool:
    """`mtime_ns` and `size` make a changed file a new question for the cache."""
    try:
        decode_image(read_image_file(path))
    except UnreadableImage:
        return False
    return True


def _matching(store: Store, filter: Filter) -> Rows:
    keep = store.alive.copy()
    for condition in filter.conditions:
        column = store.column(condition.field)
        keep &= np.fromiter(map(condition.matches, column), dtype=bool, count=len(column))
    return np.flatnonzero(keep)
