"""Changes to rows that stand in immutable segments: removals and new metadata.

A file of changes is a JSON line for each row, {"serial", "removed": true} or
{"serial", "metadata"}, where the metadata is the whole of it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from fromage_index.errors import CollectionDamaged
from fromage_index.hashed import HashedFile
from fromage_index.manifest import ChangesEntry, check_content
from fromage_index.record import Metadata

# By serial number; None where the image is removed.
Changes = Mapping[int, Metadata | None]
PREFIX = "changes-"


def write_changes(directory: Path, name: str, changes: Changes) -> ChangesEntry:
    """Durably, as the new file `name`.jsonl."""
    file = HashedFile(directory / f"{name}.jsonl")
    for serial, metadata in changes.items():
        line = {"removed": True} if metadata is None else {"metadata": metadata}
        file.write(json.dumps({"serial": serial, **line}, allow_nan=False).encode() + b"\n")
    return ChangesEntry(count=len(changes), file=file.finish())


def read_changes(directory: Path, entry: ChangesEntry) -> Changes:
    """Raises CollectionDamaged."""
    file = check_content(directory, entry.file)
    changes: dict[int, Metadata | None] = {}
    for line in file.read_bytes().splitlines():
        change = json.loads(line)
        changes[change["serial"]] = None if change.get("removed") else change["metadata"]
    if len(changes) != entry.count:
        raise CollectionDamaged(file, f"it has {len(changes)} changes instead of {entry.count}")
    return changes
