"""manifest.json: what a collection consists of, with a checksum for every file.

The manifest is the only file that is ever replaced; everything it names is immutable. A
collection is what its manifest says, so replacing it atomically commits a whole new state.
"""

from __future__ import annotations

import hashlib
import json
import os
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from fromage_index.errors import CollectionDamaged, CollectionNotFound

MANIFEST = "manifest.json"
_CHUNK = 1 << 20


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Provenance(_Frozen):
    """Which bundle's embedding space the vectors live in."""

    bundle: str
    bundle_hash: str


class FileEntry(_Frozen):
    """One immutable file: its name inside the collection, its length and SHA-256."""

    name: str
    bytes: int
    sha256: str


class SegmentEntry(_Frozen):
    """A run of consecutive rows. `images` is there where the collection holds the pictures.

    `first` is the serial number of its first row; the others follow, unless their records say
    otherwise. A collection never gives a serial number twice, and rows stand in their order.
    """

    rows: int
    first: int
    vectors: FileEntry
    records: FileEntry
    images: FileEntry | None = None

    def files(self) -> list[FileEntry]:
        return [entry for entry in (self.vectors, self.records, self.images) if entry is not None]


class ChangesEntry(_Frozen):
    """A file of removals and new metadata, `count` lines."""

    count: int
    file: FileEntry


class Manifest(_Frozen):
    """The state of a collection. `generation` differs for every build at the same place,
    `version` counts the changes since.

    `root` is the folder below which images referenced by path are, `unreadable` the number
    of files that were skipped (unreadable.log names them, where there are any). `changes` apply
    in their order; `removed` of the rows are removed by them.
    """

    format_version: Literal[2] = 2
    generation: str
    version: int = 0
    name: str
    dim: int
    provenance: Provenance
    created_at: str
    changed_at: str | None = None
    created_with: str
    source: str
    root: str | None = None
    unreadable: int = 0
    segments: tuple[SegmentEntry, ...]
    changes: tuple[ChangesEntry, ...] = ()
    removed: int = 0
    next_serial: int

    @property
    def rows(self) -> int:
        return sum(segment.rows for segment in self.segments)

    @property
    def images(self) -> int:
        """Those that can be found."""
        return self.rows - self.removed

    def files(self) -> list[FileEntry]:
        segments = [entry for segment in self.segments for entry in segment.files()]
        return segments + [entry.file for entry in self.changes]


def read_manifest(directory: Path) -> Manifest:
    """Raises CollectionNotFound without a manifest, CollectionDamaged if it was altered."""
    file = directory / MANIFEST
    try:
        content = json.loads(file.read_bytes())
        checksum = content.pop("sha256")
        if checksum != _checksum(content):
            raise CollectionDamaged(file, "its content differs from its checksum")
        return Manifest.model_validate(_upgraded(content))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise CollectionNotFound(
            f"{directory} holds no collection (it has no {MANIFEST}); "
            "make one with `fromage index build` or `create`"
        ) from error
    except (ValueError, KeyError, AttributeError, TypeError, ValidationError) as error:
        raise CollectionDamaged(file, f"it cannot be read ({type(error).__name__})") from error


def _upgraded(content: dict[str, Any]) -> dict[str, Any]:
    """Version 1 could not be changed, so its rows had no numbers of their own."""
    if content.get("format_version") != 1:
        return content
    first = 0
    for segment in content["segments"]:
        segment["first"] = first
        first += segment["rows"]
    return {**content, "format_version": 2, "next_serial": first}


def write_manifest(directory: Path, manifest: Manifest) -> None:
    """Replaces the manifest in one step: after a crash there is the old one or the new one."""
    content = manifest.model_dump(mode="json")
    content["sha256"] = _checksum(content)
    beside = directory / f".{MANIFEST}.{manifest.generation}"
    with beside.open("w") as file:
        json.dump(content, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(directory / MANIFEST)
    sync_directory(directory)


def unix_time(moment: str) -> int:
    """Seconds; `moment` is a `created_at` or a `changed_at`."""
    return int(datetime.fromisoformat(moment).timestamp())


def sync_directory(directory: Path) -> None:
    """Makes names created or renamed in `directory` survive a power failure."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def check_length(directory: Path, entry: FileEntry) -> Path:
    """The entry's path, once its length is right; raises CollectionDamaged."""
    file = directory / entry.name
    try:
        found = file.stat().st_size
    except OSError as error:
        raise CollectionDamaged(file, "it is missing") from error
    if found != entry.bytes:
        raise CollectionDamaged(file, f"it has {found:,} bytes instead of {entry.bytes:,}")
    return file


def check_content(directory: Path, entry: FileEntry) -> Path:
    """The entry's path, once length and SHA-256 are right; raises CollectionDamaged."""
    file = check_length(directory, entry)
    digest = hashlib.sha256()
    with file.open("rb") as opened:
        while chunk := opened.read(_CHUNK):
            digest.update(chunk)
    if digest.hexdigest() != entry.sha256:
        raise CollectionDamaged(file, "its content differs from its SHA-256 in the manifest")
    return file


def _checksum(content: dict[str, object]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
