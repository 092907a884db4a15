"""Changes a collection: all that is asked for at once becomes one durable commit."""

from __future__ import annotations

import hashlib
import secrets
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from fromage_index.changes import PREFIX as CHANGES
from fromage_index.changes import write_changes
from fromage_index.collection import Collection
from fromage_index.errors import (
    CollectionBusy,
    CollectionNotFound,
    ImageNotFound,
    IndexFailure,
    PlaceUnusable,
)
from fromage_index.locking import writing
from fromage_index.manifest import (
    Manifest,
    Provenance,
    read_manifest,
    sync_directory,
    write_manifest,
)
from fromage_index.metadata import merged
from fromage_index.names import checked_name
from fromage_index.record import Metadata, StoredRecord, checked_key, image_id
from fromage_index.segment import Float32, SegmentWriter
from fromage_index.sniff import sniff_content_type
from fromage_index.writer import (
    SEGMENT,
    check_target,
    created_with,
    make_directories,
    now,
    remove_unnamed,
    unit,
)

DROPPED = ".dropped-"


@dataclass(frozen=True)
class Addition:
    """A picture to be held by the collection: its file, and its embedding (E,) of any length.

    `key` is its owner's name for it, by default its id. `told` is what another collection's sidecar
    said of it, which may be nested, as `metadata` may not.
    """

    data: bytes
    vector: Float32
    size: tuple[int, int]
    key: str | None = None
    metadata: Metadata = field(default_factory=dict)
    told: Metadata = field(default_factory=dict)


@dataclass(frozen=True)
class Amendment:
    """Metadata merged into an image's; None takes a field away."""

    id: str
    metadata: Metadata


@dataclass(frozen=True)
class Removal:
    id: str


Change = Addition | Amendment | Removal


@dataclass(frozen=True)
class Done:
    """A change was made, or there was nothing to do: for an addition, a picture with this very
    file is there already, under this id."""

    id: str
    changed: bool


Outcome = Done | IndexFailure


def edit(collection: Collection, changes: Sequence[Change]) -> tuple[Collection, list[Outcome]]:
    """Makes the changes in their order, in one commit on top of what is on disk now.

    When it returns they have survived: nothing short of losing the disk undoes them. A change
    that cannot be made has its IndexFailure as outcome and doesn't touch the others. Raises
    CollectionBusy, CollectionNotFound, CollectionDamaged, PlaceUnusable; then none is made.
    """
    with writing(collection.directory):
        draft = _Draft(collection.refreshed())
        outcomes = [draft.take(change) for change in changes]
        if not draft.empty:
            draft.commit()
        return draft.collection.refreshed(), outcomes


def create_collection(out: Path, *, dim: int, provenance: Provenance, source: str) -> None:
    """An empty collection at `out`. Raises BadName, CollectionExists, CollectionBusy (one of that
    name is dropped at this moment), PlaceUnusable."""
    manifest = Manifest(
        generation=secrets.token_hex(4),
        name=checked_name(out.resolve().name),
        dim=dim,
        provenance=provenance,
        created_at=now(),
        created_with=created_with(),
        source=source,
        segments=(),
        next_serial=0,
    )
    try:
        check_target(out, overwrite=None)
        make_directories(out)
        with writing(out):
            check_target(out, overwrite=None)
            write_manifest(out, manifest)
    except (CollectionNotFound, FileNotFoundError):
        # Another made one there first, and it went, with the directory, before the lock was had.
        raise CollectionBusy(f"{out} is made and dropped by another; try again later") from None


def drop_collection(directory: Path) -> None:
    """Removes the collection and its files: in one step they go aside, to a name that begins with
    DROPPED. What a crash leaves there is rubbish. Raises CollectionNotFound, CollectionBusy,
    PlaceUnusable.
    """
    aside = directory.with_name(DROPPED + secrets.token_hex(6))
    with writing(directory):
        try:
            directory.rename(aside)
            sync_directory(aside.parent)
        except OSError as error:
            raise PlaceUnusable(f"{directory} cannot be removed ({error.strerror})") from error
    shutil.rmtree(aside, ignore_errors=True)


class _Draft:
    """The next state of a collection, as it comes together."""

    def __init__(self, collection: Collection) -> None:
        self.collection = collection
        self._store = collection.store
        self._added: dict[str, Addition] = {}
        self._contents: dict[str, str] = {}  # ids of `_added` by their files' SHA-256
        self._amended: dict[int, Metadata] = {}  # these two by row
        self._removed: dict[int, str] = {}

    @property
    def empty(self) -> bool:
        return not (self._added or self._amended or self._removed)

    def take(self, change: Change) -> Outcome:
        try:
            match change:
                case Addition():
                    return self._add(change)
                case Amendment():
                    return self._amend(change)
                case Removal():
                    return self._remove(change)
        except IndexFailure as error:
            return error

    def commit(self) -> None:
        """Data first, durably; then the manifest that names it, in one step."""
        directory, before = self.collection.directory, self.collection.manifest
        remove_unnamed(directory, before)
        try:
            after = self._write_files(directory, before)
            sync_directory(directory)
            write_manifest(directory, after)
        except OSError as error:
            remove_unnamed(directory, read_manifest(directory))
            raise PlaceUnusable(f"{directory} cannot be written ({error.strerror})") from error
        for id in self._removed.values():
            self.collection.forget_thumbnails(id)

    def _add(self, addition: Addition) -> Done:
        if addition.key is not None:
            checked_key(addition.key)
        digest = hashlib.sha256(addition.data).hexdigest()
        there = self._contents.get(digest) or self._with_content(digest)
        if there is not None:
            return Done(there, changed=False)
        # The same picture gets the same id again, also after it was removed.
        id = image_id(f"sha256:{digest}")
        vector = unit(addition.vector, self._store.manifest.dim, addition.key or id)
        metadata = merged(addition.told, addition.metadata)
        self._added[id] = replace(addition, vector=vector, metadata=metadata)
        self._contents[digest] = id
        return Done(id, changed=True)

    def _amend(self, amendment: Amendment) -> Done:
        added = self._added.get(amendment.id)
        if added is not None:
            metadata = merged(added.metadata, amendment.metadata)
            self._added[amendment.id] = replace(added, metadata=metadata)
            return Done(amendment.id, changed=True)
        row = self._row(amendment.id)
        before = self._amended.get(row, self._store.record(row).metadata)
        after = merged(before, amendment.metadata)
        if after != before:
            self._amended[row] = after
        return Done(amendment.id, changed=after != before)

    def _remove(self, removal: Removal) -> Done:
        added = self._added.pop(removal.id, None)
        if added is not None:
            del self._contents[hashlib.sha256(added.data).hexdigest()]
        else:
            row = self._row(removal.id)
            self._removed[row] = removal.id
            self._amended.pop(row, None)
        return Done(removal.id, changed=True)

    def _row(self, id: str) -> int:
        row = self._store.row(id)
        if row in self._removed:
            raise ImageNotFound(f"the collection {self.collection.name!r} has no image {id!r}")
        return row

    def _with_content(self, digest: str) -> str | None:
        rows = self._store.rows_of_content(digest)
        return next((self._store.id(row) for row in rows if row not in self._removed), None)

    def _write_files(self, directory: Path, before: Manifest) -> Manifest:
        version = before.version + 1
        name = f"{before.generation}-v{version:08d}"
        segments, changes = before.segments, before.changes
        if self._added:
            writer = SegmentWriter(directory, f"{SEGMENT}{name}", before.next_serial)
            try:
                for id, addition in self._added.items():
                    writer.add(_record(id, addition), addition.vector, addition.data)
                segments += (writer.finish(),)
            finally:
                writer.abandon()
        if self._amended or self._removed:
            by_row = {**self._amended, **dict.fromkeys(self._removed)}
            by_serial = {self._store.serial(row): by_row[row] for row in sorted(by_row)}
            changes += (write_changes(directory, f"{CHANGES}{name}", by_serial),)
        return before.model_copy(
            update={
                "version": version,
                "changed_at": now(),
                "segments": segments,
                "changes": changes,
                "removed": before.removed + len(self._removed),
                "next_serial": before.next_serial + len(self._added),
            }
        )


def _record(id: str, addition: Addition) -> StoredRecord:
    return StoredRecord(
        id=id,
        key=addition.key or id,
        width=addition.size[0],
        height=addition.size[1],
        content_type=sniff_content_type(addition.data),
        metadata=addition.metadata,
    )
