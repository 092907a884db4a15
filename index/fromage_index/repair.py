"""Repair: of a damaged collection, whatever is still sound.

The manifest is what everything is checked against; where it is damaged itself, there is nothing
to go by.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from fromage_index.changes import PREFIX as CHANGES
from fromage_index.changes import Changes, read_changes, write_changes
from fromage_index.decode import decode_image
from fromage_index.errors import CollectionDamaged, IndexFailure
from fromage_index.files import inside, read_image_file
from fromage_index.locking import writing
from fromage_index.manifest import (
    ChangesEntry,
    FileEntry,
    Manifest,
    SegmentEntry,
    check_content,
    read_manifest,
    sync_directory,
    write_manifest,
)
from fromage_index.record import Metadata, StoredRecord
from fromage_index.segment import Float32, SegmentWriter
from fromage_index.store import Store
from fromage_index.writer import SEGMENT, now, remove_unnamed, unit

_SHA256 = re.compile(r"[0-9a-f]{64}")
# From the pixels of a picture to its embedding (E,).
EmbedOne = Callable[[Any], Float32]


@dataclass
class RepairReport:
    """`lost` names the images that had to go, as far as their names can be read; `embedded` were
    given a new vector; `guessed` are files that differ from their checksum and were read all the
    same, so that what they say may not be what was written."""

    images: int = 0
    embedded: int = 0
    lost: list[str] = field(default_factory=list)
    guessed: list[str] = field(default_factory=list)


def repair(directory: Path, embed: EmbedOne | None = None) -> RepairReport:
    """Puts sound segments in the place of damaged ones. `embed` gives images whose vectors are
    damaged new ones; without it they are lost. A sound collection stays as it is.

    Raises CollectionNotFound, CollectionBusy, and CollectionDamaged for the manifest.
    """
    report = RepairReport()
    with writing(directory):
        manifest = read_manifest(directory)
        remove_unnamed(directory, manifest)
        name = f"{manifest.generation}-v{manifest.version + 1:08d}-{secrets.token_hex(4)}"
        salvage = _Salvage(directory, manifest, name, embed, report)
        segments = tuple(filter(None, map(salvage.segment, manifest.segments)))
        changes = tuple(filter(None, map(salvage.changes, manifest.changes)))
        after = manifest.model_copy(update={"segments": segments, "changes": changes})
        if after != manifest:
            sync_directory(directory)
            removed = _removed(directory, after)
            update = {"version": manifest.version + 1, "changed_at": now(), "removed": removed}
            write_manifest(directory, after.model_copy(update=update))
            remove_unnamed(directory, read_manifest(directory))
    report.images = Store(directory).manifest.images
    return report


def _removed(directory: Path, manifest: Manifest) -> int:
    """How many rows the changes that are left remove."""
    removed = {
        serial
        for entry in manifest.changes
        for serial, metadata in read_changes(directory, entry).items()
        if metadata is None
    }
    serials: set[int] = set()
    for segment in manifest.segments:
        lines = (directory / segment.records.name).read_bytes().splitlines()
        for row, line in enumerate(lines):
            serial = StoredRecord.parse(line).serial
            serials.add(segment.first + row if serial is None else serial)
    return len(removed & serials)


class _Salvage:
    def __init__(
        self,
        directory: Path,
        manifest: Manifest,
        name: str,
        embed: EmbedOne | None,
        report: RepairReport,
    ) -> None:
        self._directory = directory
        self._manifest = manifest
        self._name = name
        self._embed = embed
        self._report = report
        self._written = 0

    def segment(self, entry: SegmentEntry) -> SegmentEntry | None:
        """The entry itself where it is sound, else one of what is; None where nothing is."""
        if all(self._sound(file) for file in entry.files()):
            return entry
        self._written += 1
        writer: SegmentWriter | None = None
        for serial, record, vector, data in self._rows(entry):
            if writer is None:
                name = f"{SEGMENT}{self._name}-{self._written:05d}"
                writer = SegmentWriter(self._directory, name, serial)
            follows = serial == writer.first + writer.rows
            writer.add(replace(record, serial=None if follows else serial), vector, data)
        return writer.finish() if writer is not None else None

    def changes(self, entry: ChangesEntry) -> ChangesEntry | None:
        if self._sound(entry.file):
            return entry
        file = self._directory / entry.file.name
        self._report.guessed.append(file.name)
        kept: dict[int, Metadata | None] = {}
        for line in _lines(file):
            try:
                change = json.loads(line)
                kept[int(change["serial"])] = None if change.get("removed") else change["metadata"]
            except (ValueError, KeyError, TypeError, AttributeError):
                continue
        if not kept:
            return None
        self._written += 1
        found: Changes = kept
        return write_changes(self._directory, f"{CHANGES}{self._name}-{self._written:05d}", found)

    def _rows(
        self, entry: SegmentEntry
    ) -> Iterator[tuple[int, StoredRecord, Float32, bytes | None]]:
        """Serial number, record, vector and picture of each row that is sound."""
        if not self._sound(entry.records):
            self._report.guessed.append(entry.records.name)
        vectors = self._vectors(entry)
        lines = _lines(self._directory / entry.records.name)
        if len(lines) != entry.rows:
            vectors = None  # whose is whose can't be told any more
        self._report.lost += ["?"] * max(0, entry.rows - len(lines))
        last = entry.first - 1
        for row, line in enumerate(lines):
            record = _record(line)
            if record is None:
                self._report.lost.append("?")
                continue
            serial = entry.first + row if record.serial is None else record.serial
            vector = vectors[row] if vectors is not None else None
            try:
                data = self._picture(entry, record)
                vector = self._new_vector(record, data) if vector is None else vector
            except IndexFailure:
                vector = None
            if vector is None or serial <= last:
                self._report.lost.append(record.key)
                continue
            last = serial
            yield serial, record, vector, data

    def _vectors(self, entry: SegmentEntry) -> Float32 | None:
        if not self._sound(entry.vectors):
            return None
        vectors: Float32 = np.load(self._directory / entry.vectors.name, allow_pickle=False)
        return vectors

    def _picture(self, entry: SegmentEntry, record: StoredRecord) -> bytes | None:
        """The bytes of a picture that the collection holds. Raises CollectionDamaged."""
        if record.length is None:
            return None
        assert entry.images is not None
        file = self._directory / entry.images.name
        try:
            with file.open("rb") as opened:
                data = os.pread(opened.fileno(), record.length, record.offset or 0)
        except OSError as error:
            raise CollectionDamaged(file, "it cannot be read") from error
        if hashlib.sha256(data).hexdigest() != record.sha256:
            raise CollectionDamaged(file, f"image {record.id} differs from its SHA-256")
        return data

    def _new_vector(self, record: StoredRecord, data: bytes | None) -> Float32 | None:
        """Of the picture again; None where that cannot be. Raises UnreadableImage."""
        root = self._manifest.root
        if data is None and record.path is not None and root is not None:
            path = inside(Path(root), record.path)
            data = read_image_file(path) if path is not None else None
        if data is None or self._embed is None:
            return None
        vector = unit(self._embed(decode_image(data)), self._manifest.dim, record.key)
        self._report.embedded += 1
        return vector

    def _sound(self, entry: FileEntry) -> bool:
        try:
            check_content(self._directory, entry)
        except CollectionDamaged:
            return False
        return True


def _lines(file: Path) -> list[bytes]:
    try:
        return file.read_bytes().splitlines()
    except OSError:
        return []


def _record(line: bytes) -> StoredRecord | None:
    try:
        record = StoredRecord.parse(line)
    except (ValueError, TypeError):
        return None
    readable = (
        isinstance(record.id, str)
        and isinstance(record.key, str)
        and isinstance(record.metadata, dict)
        and (record.serial is None or isinstance(record.serial, int))
        and (record.sha256 is None or _SHA256.fullmatch(str(record.sha256)) is not None)
    )
    return record if readable else None
