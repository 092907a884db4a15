"""Writes a collection so that it appears whole or not at all."""

from __future__ import annotations

import importlib.metadata
import os
import secrets
import shutil
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import ArrayLike

from fromage_index.changes import PREFIX as CHANGES
from fromage_index.errors import (
    BadVectors,
    CollectionBusy,
    CollectionExists,
    DimensionMismatch,
    NothingToIndex,
    PlaceUnusable,
)
from fromage_index.locking import LOCK, take_lock
from fromage_index.manifest import (
    MANIFEST,
    Manifest,
    Provenance,
    SegmentEntry,
    sync_directory,
    write_manifest,
)
from fromage_index.record import Metadata, StoredRecord, checked_key, image_id
from fromage_index.segment import Float32, SegmentWriter
from fromage_index.sniff import sniff_content_type

SEGMENT_ROWS = 65_536
UNREADABLE_LOG = "unreadable.log"
THUMBNAILS = "thumbnails"
_WORK = ".building-"
COMPACTING = ".compacting-"
SEGMENT = "segment-"


class CollectionWriter:
    """Collects rows in a hidden work folder of `out`; `commit` makes them the collection.

    Until then `out` is what it was: no collection, or with `overwrite` the earlier one, which
    servers that have it open go on reading. Leaving the `with` block without commit, or the
    next build after a crash, removes the work folder. Raises CollectionExists.
    """

    def __init__(
        self,
        out: Path,
        *,
        dim: int,
        provenance: Provenance,
        source: str,
        root: Path | None = None,
        overwrite: bool = False,
        segment_rows: int = SEGMENT_ROWS,
    ) -> None:
        self.rows = 0
        self.unreadable = 0
        self._out, self._dim, self._segment_rows = out, dim, segment_rows
        self._provenance, self._source, self._root = provenance, source, root
        self._overwrite = overwrite
        self._generation = secrets.token_hex(4)
        self._work = out / f"{_WORK}{self._generation}"
        self._segments: list[SegmentEntry] = []
        self._open_segment: SegmentWriter | None = None
        self._occurrences: dict[str, int] = {}

    def __enter__(self) -> Self:
        check_target(self._out, overwrite=self._overwrite)
        self._created = make_directories(self._out)
        self._lock = _take(self._out)
        try:
            # Another build may have committed between the first look and the lock.
            check_target(self._out, overwrite=self._overwrite)
            for stale in self._out.glob(f"{_WORK}*"):
                shutil.rmtree(stale)
            self._work.mkdir()
        except BaseException:
            os.close(self._lock)
            raise
        self._log = (self._work / UNREADABLE_LOG).open("w", encoding="utf-8", errors="replace")
        self._logged = False
        return self

    def add(
        self,
        key: str,
        vector: ArrayLike,
        *,
        data: bytes | None = None,
        path: str | None = None,
        url: str | None = None,
        size: tuple[int, int] | None = None,
        content_type: str | None = None,
        sha256: str | None = None,
        metadata: Metadata | None = None,
    ) -> None:
        """Appends a row. `vector` (E,) is normalised here; `data` is kept in the collection, and
        `sha256` is that of the image's file. Raises BadKey, DimensionMismatch, BadVectors."""
        checked_key(key)
        occurrence = self._occurrences.get(key, 0)
        self._occurrences[key] = occurrence + 1
        record = StoredRecord(
            id=image_id(key, occurrence),
            key=key,
            path=path,
            url=url,
            width=size[0] if size else None,
            height=size[1] if size else None,
            content_type=content_type or (sniff_content_type(data) if data else None),
            sha256=sha256,
            metadata=metadata or {},
        )
        self._segment().add(record, unit(vector, self._dim, key), data)
        self.rows += 1

    def skip(self, key: str, reason: str) -> None:
        """Counts a file that is left out, and names it in unreadable.log."""
        self.unreadable += 1
        self.note(key, reason)

    def note(self, key: str, remark: str) -> None:
        """A line in unreadable.log."""
        self._log.write(f"{key}\t{remark}\n")
        self._logged = True

    def commit(self) -> Manifest:
        """Makes the rows the collection at `out`, durably and in one step."""
        if self.rows == 0:
            raise NothingToIndex(
                f"{self._source} holds no image that could be indexed"
                + (f" ({self.unreadable} could not be read)" if self.unreadable else "")
            )
        self._close_segment()
        self._log.close()
        manifest = self._manifest()
        for file in [entry.name for segment in self._segments for entry in segment.files()]:
            (self._work / file).rename(self._out / file)
        log = self._out / UNREADABLE_LOG
        if self._logged:
            (self._work / UNREADABLE_LOG).replace(log)
        else:
            log.unlink(missing_ok=True)
        sync_directory(self._out)
        write_manifest(self._out, manifest)
        remove_unnamed(self._out, manifest)
        shutil.rmtree(self._out / THUMBNAILS, ignore_errors=True)
        return manifest

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._open_segment is not None:
            self._open_segment.abandon()
        self._log.close()
        shutil.rmtree(self._work, ignore_errors=True)
        if self._created and {child.name for child in self._out.iterdir()} == {LOCK}:
            shutil.rmtree(self._out)
        os.close(self._lock)

    def _segment(self) -> SegmentWriter:
        if self._open_segment is not None and self._open_segment.rows >= self._segment_rows:
            self._close_segment()
        if self._open_segment is None:
            name = f"{SEGMENT}{self._generation}-{len(self._segments):05d}"
            self._open_segment = SegmentWriter(self._work, name, first=self.rows)
        return self._open_segment

    def _close_segment(self) -> None:
        if self._open_segment is not None:
            self._segments.append(self._open_segment.finish())
            self._open_segment = None

    def _manifest(self) -> Manifest:
        return Manifest(
            generation=self._generation,
            name=self._out.name,
            dim=self._dim,
            provenance=self._provenance,
            created_at=now(),
            created_with=created_with(),
            source=self._source,
            root=str(self._root) if self._root is not None else None,
            unreadable=self.unreadable,
            segments=tuple(self._segments),
            next_serial=self.rows,
        )


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def created_with() -> str:
    return f"fromage-server {importlib.metadata.version('fromage-server')}"


def was_changed(directory: Path) -> bool:
    """Whether the collection there holds more than its build put in, manifest or not: what is
    written later has its version in its name."""
    return any(directory.glob(f"{SEGMENT}*-v*")) or any(directory.glob(f"{CHANGES}*-v*"))


def check_target(out: Path, *, overwrite: bool | None) -> None:
    """Raises CollectionExists unless a collection may be put at `out`; None where the caller has
    no such choice."""
    if out.exists() and not out.is_dir():
        raise CollectionExists(f"{out} is a file; a collection is a directory")
    if (out / MANIFEST).exists():
        if not overwrite:
            advice = "choose another name" if overwrite is None else "replace it with --overwrite"
            raise CollectionExists(f"{out} is a collection already; {advice}")
    elif out.is_dir() and any(not _is_ours(child) for child in out.iterdir()):
        raise CollectionExists(f"{out} holds other files; choose an empty or a new directory")


def check_nothing_else(directory: Path) -> None:
    """Raises PlaceUnusable where there is more in it than a collection's files."""
    others = sorted(
        child.name
        for child in directory.iterdir()
        if child.name != MANIFEST and not _is_ours(child)
    )
    if others:
        raise PlaceUnusable(
            f"{directory} holds other files, {', '.join(map(repr, others[:5]))}"
            f"{' and more' if len(others) > 5 else ''}: move them away first"
        )


def unit(vector: ArrayLike, dim: int, name: str) -> Float32:
    """(E,) float32 of length one; raises DimensionMismatch, BadVectors."""
    values = np.asarray(vector, dtype=np.float64)
    if values.shape != (dim,):
        raise DimensionMismatch(f"the embedding of {name} has shape {values.shape}, not ({dim},)")
    length = float(np.linalg.norm(values))
    if not np.isfinite(length) or length < 1e-12:
        raise BadVectors(f"the embedding of {name} has no direction (its length is {length})")
    return (values / length).astype(np.float32)


def _is_ours(child: Path) -> bool:
    return child.name.startswith(
        (_WORK, COMPACTING, SEGMENT, CHANGES, f".{MANIFEST}.")
    ) or child.name in (
        UNREADABLE_LOG,
        THUMBNAILS,
        LOCK,
    )


def make_directories(out: Path) -> bool:
    """Makes `out` and what is missing above it, durably; False where it is there already."""
    try:
        missing = [folder for folder in (out, *out.parents) if not folder.exists()]
        for folder in reversed(missing):
            folder.mkdir(exist_ok=True)
            sync_directory(folder.parent)
    except OSError as error:
        raise PlaceUnusable(f"{out}: the directory cannot be made ({error})") from error
    return bool(missing)


def _take(out: Path) -> int:
    try:
        return take_lock(out)
    except CollectionBusy as error:
        raise CollectionExists(str(error)) from error


def remove_unnamed(out: Path, manifest: Manifest) -> None:
    """Removes what an earlier collection or a crashed commit left, and nothing else."""
    named = {entry.name for entry in manifest.files()}
    for pattern in (f"{SEGMENT}*", f"{CHANGES}*", f".{MANIFEST}.*"):
        for file in out.glob(pattern):
            if file.name not in named:
                file.unlink(missing_ok=True)
