"""Merging segments while a collection is searched and changed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fromage_index import manifest, store
from fromage_index.collection import Collection
from fromage_index.compact import compact, due, everything
from fromage_index.editor import Amendment, Removal, edit
from fromage_index.manifest import FileEntry
from fromage_index.store import verify
from tests.index.editing import FILES, addition


def test_one_added_at_a_time_leaves_few_segments(empty: Collection) -> None:
    collection = empty
    most = 0
    for number in range(64):
        collection, _ = edit(collection, [addition(number, n=number)])
        run = due(collection.store)
        if run is not None:
            assert compact(collection, run)
            collection = collection.refreshed()
        most = max(most, len(collection.store.segments))
    assert most <= 20
    assert len(list(empty.directory.glob("segment-*.npy"))) == len(collection.store.segments)
    assert [collection.image(id).metadata["n"] for id in collection.ids] == list(range(64))


def test_many_amendments_leave_few_files(empty: Collection) -> None:
    collection, _ = edit(empty, [addition(1), addition(2)])
    for step in range(40):
        collection, _ = edit(collection, [Amendment(collection.ids[0], {"step": step})])
        run = due(collection.store)
        if run is not None:
            assert compact(collection, run)
            collection = collection.refreshed()
    assert len(list(empty.directory.glob("changes-*"))) < 17
    assert collection.image(collection.ids[0]).metadata == {"step": 39}


def test_compacting_takes_what_was_removed_from_the_disk(empty: Collection) -> None:
    collection, _ = edit(empty, [addition(n) for n in range(10)])
    collection, _ = edit(collection, [Removal(id) for id in collection.ids[:9]])
    (images,) = empty.directory.glob("*images.bin")
    assert FILES[0] in images.read_bytes()
    run = everything(collection.store)
    assert run is not None
    assert compact(collection, run)
    (images,) = empty.directory.glob("*images.bin")
    assert images.read_bytes() == FILES[9]
    assert not list(empty.directory.glob("changes-*"))
    fresh = collection.refreshed()
    assert everything(fresh.store) is None
    assert fresh.manifest.removed == 0


def test_compaction_beside_changes(empty: Collection) -> None:
    """What was added, removed and amended while segments were merged is still so."""
    before, _ = edit(empty, [addition(n, n=n) for n in range(6)])
    first, second, third = before.ids[:3]
    edit(before, [Removal(first), Amendment(second, {"n": 70}), addition(20)])
    assert compact(before, slice(0, 1))
    now = Collection.open(empty.directory)
    assert first not in now
    assert now.image(second).metadata == {"n": 70}
    assert now.size == 6
    # What another compacted meanwhile is left alone.
    edit(now, [Removal(third)])
    assert not compact(before, slice(0, 1))
    assert Collection.open(empty.directory).size == 5
    assert not list(empty.directory.glob(".compacting-*"))


def test_verifying_while_segments_are_merged(
    empty: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The verifier has the old manifest when its files go: it begins again with the new one."""
    for number in range(3):
        edit(empty, [addition(number)])
    collection = empty.refreshed()
    check = manifest.check_content

    def merge_then_check(directory: Path, entry: FileEntry) -> Path:
        monkeypatch.setattr(store, "check_content", check)
        assert compact(collection, slice(0, 3))
        return check(directory, entry)

    monkeypatch.setattr(store, "check_content", merge_then_check)
    assert len(verify(empty.directory).segments) == 1


def test_files_that_go_while_they_are_opened(
    empty: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    collection = empty
    for number in range(3):
        collection, _ = edit(collection, [addition(number)])
    load, merged = np.load, list[bool]()

    def late(*args: Any, **options: Any) -> Any:
        if not merged:
            run = everything(collection.store)
            assert run is not None
            merged.append(True)
            assert compact(collection, run)
        return load(*args, **options)

    monkeypatch.setattr(np, "load", late)
    assert Collection.open(empty.directory).size == 3
    assert len(Collection.open(empty.directory).store.segments) == 1
