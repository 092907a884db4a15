"""A collection that changes, against a plain dict."""

from __future__ import annotations

import fcntl
import random
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fromage_index import locking
from fromage_index.collection import Collection
from fromage_index.compact import compact, due, everything
from fromage_index.editor import (
    Addition,
    Amendment,
    Change,
    Done,
    Removal,
    create_collection,
    drop_collection,
    edit,
)
from fromage_index.errors import (
    BadFilter,
    BadKey,
    BadMetadata,
    BadVectors,
    CollectionBusy,
    CollectionExists,
    CollectionNotFound,
    ImageNotFound,
)
from fromage_index.filter import Filter
from fromage_index.locking import LOCK, writing
from fromage_index.store import verify
from fromage_index.writer import CollectionWriter
from tests.index.editing import DIM, FILES, VECTORS, addition, keys, make_empty
from tests.index.pictures import PROVENANCE, unit_rows


class Model:
    """What a collection should be: images in the order of their addition."""

    def __init__(self) -> None:
        self.images: dict[str, tuple[int, dict[str, Any]]] = {}  # id -> number, metadata

    def assert_same(self, collection: Collection, query: NDArray[np.float32]) -> None:
        assert collection.ids == tuple(self.images)
        assert collection.size == len(self.images)
        listed = [record.id for record in collection.page(1000).images]
        assert listed == list(self.images)[::-1]
        for id, (number, metadata) in self.images.items():
            record = collection.image(id)
            assert (record.key, record.metadata) == (f"{number}", metadata)
            assert collection.open_bytes(id)[0] == FILES[number]
        fields = {field for _, metadata in self.images.values() for field in metadata}
        assert collection.store.fields == fields
        self._assert_finds(collection, query, list(self.images))
        for value in range(3):
            if "kind" in fields:
                kept = [id for id, (_, m) in self.images.items() if m.get("kind") == value]
                self._assert_finds(collection, query, kept, kind=value)

    def _assert_finds(
        self, collection: Collection, query: NDArray[np.float32], ids: list[str], **filter: Any
    ) -> None:
        scores = {id: float(VECTORS[self.images[id][0]] @ query) for id in ids}
        best = sorted(ids, key=lambda id: -scores[id])[:5]
        wanted = Filter.parse(filter) if filter else None
        assert [hit.id for hit in collection.search(query[None], 5, filter=wanted)[0]] == best


@pytest.mark.parametrize("seed", range(3))
def test_random_changes(empty: Collection, seed: int) -> None:
    """In commits of one or several, compacted and opened again at times."""
    chance = random.Random(seed)
    model, collection = Model(), empty
    for step in range(40):
        changes: list[Change] = []
        for _ in range(chance.choice([1, 1, 1, 6])):
            kind = chance.random()
            if kind < 0.5 or not model.images:
                number = chance.randrange(len(FILES))
                change = addition(number, kind=chance.randrange(3))
                known = next((i for i, (n, _) in model.images.items() if n == number), None)
                changes.append(change)
                if known is None:
                    (outcome,) = edit(collection, changes)[1][-1:]
                    assert isinstance(outcome, Done)
                    assert outcome.changed
                    model.images[outcome.id] = (number, change.metadata)
                    changes, collection = [], collection.refreshed()
            elif kind < 0.75:
                id = chance.choice(list(model.images))
                changes.append(Amendment(id, {"kind": None, "step": step}))
                number, metadata = model.images[id]
                kept = {name: value for name, value in metadata.items() if name != "kind"}
                model.images[id] = (number, {**kept, "step": step})
            else:
                id = chance.choice(list(model.images))
                changes.append(Removal(id))
                del model.images[id]
        collection, outcomes = edit(collection, changes)
        assert all(isinstance(outcome, Done) for outcome in outcomes)
        run = everything(collection.store) if chance.random() < 0.1 else due(collection.store)
        if run is not None:
            assert compact(collection, run)
            collection = collection.refreshed()
        if chance.random() < 0.2:
            verify(collection.directory)
            collection = Collection.open(collection.directory)
        model.assert_same(collection, VECTORS[chance.randrange(len(VECTORS))])


def test_changes_of_one_commit_see_each_other(empty: Collection) -> None:
    collection, (first, second) = edit(empty, [addition(1), addition(1, a=1)])
    assert isinstance(first, Done)
    assert second == Done(first.id, changed=False)
    changes: list[Change] = [
        Removal(first.id),
        Amendment(first.id, {"x": 1}),
        Removal(first.id),
        addition(1, b=2),
        Amendment(first.id, {"c": 3}),
        addition(2),
    ]
    collection, outcomes = edit(collection, changes)
    assert [type(outcome) for outcome in outcomes[:4]] == [Done, ImageNotFound, ImageNotFound, Done]
    assert collection.manifest.version == 2
    assert collection.image(first.id).metadata == {"b": 2, "c": 3}
    collection, outcomes = edit(collection, [addition(3), Removal(collection.ids[0])])
    id = outcomes[0].id  # type: ignore[union-attr]
    again, outcomes = edit(collection, [Removal(id), Removal(id)])
    assert isinstance(outcomes[1], ImageNotFound)
    assert keys(again) == ["2"]


def test_what_cannot_be_done_does_not_touch_the_rest(empty: Collection) -> None:
    nothing = Addition(FILES[5], np.zeros(DIM, np.float32), (1, 1))
    bad = addition(6, a={"b": 1})
    changes: list[Change] = [Removal("nobody"), nothing, bad, addition(7), Amendment("nobody", {})]
    collection, outcomes = edit(empty, changes)
    kinds = [type(outcome) for outcome in outcomes]
    assert kinds == [ImageNotFound, BadVectors, BadMetadata, Done, ImageNotFound]
    assert keys(collection) == ["7"]


@pytest.mark.parametrize("key", ["\udcff.png", "a \ud800", "\ud83d\ude00"])
def test_a_key_that_is_no_text_writes_nothing(empty: Collection, key: str) -> None:
    """One that was written could be neither listed over HTTP nor printed."""
    before = {file.name: file.read_bytes() for file in empty.directory.iterdir()}
    named = replace(addition(3), key=key)
    collection, (outcome,) = edit(empty, [named])
    assert isinstance(outcome, BadKey)
    assert f"the key {key!r}" in str(outcome)
    str(outcome).encode()
    assert {file.name: file.read_bytes() for file in empty.directory.iterdir()} == before | {
        LOCK: b""
    }
    collection, (refused, done) = edit(collection, [named, addition(4)])
    assert (type(refused), type(done)) == (BadKey, Done)
    assert keys(collection) == ["4"]


def test_what_changes_nothing_is_no_commit(empty: Collection) -> None:
    collection, _ = edit(empty, [addition(1, a=1)])
    before = collection.manifest
    same: list[Change] = [
        addition(1),
        Amendment(collection.ids[0], {"a": 1, "b": None}),
        Removal("nobody"),
    ]
    assert edit(collection, same)[0].manifest == before
    assert edit(collection, [])[0] is not empty


def test_a_snapshot_stays_as_it_was(empty: Collection) -> None:
    before, _ = edit(empty, [addition(n, n=n) for n in range(5)])
    found = before.search(VECTORS[:1], 10)
    after = before
    for id in before.ids:
        after, _ = edit(after, [Removal(id), addition(int(before.image(id).key) + 10)])
    run = everything(after.store)
    assert run is not None
    assert compact(after, run)
    assert before.search(VECTORS[:1], 10) == found
    assert before.search(VECTORS[:1], 10, filter=Filter.parse({"n": {"gte": 0}})) == found
    assert [before.open_bytes(id)[0] for id in before.ids] == FILES[:5]
    assert len(before.page(10).images) == 5
    fresh = after.refreshed()
    assert sorted(map(int, keys(fresh))) == [10, 11, 12, 13, 14]
    with pytest.raises(BadFilter):
        fresh.search(VECTORS[:1], 1, filter=Filter.parse({"n": 1}))


def test_only_what_is_new_is_read(empty: Collection) -> None:
    before, _ = edit(empty, [addition(1)])
    after, _ = edit(before, [addition(2), Removal(before.ids[0])])
    assert after.store.segments[0] is before.store.segments[0]
    assert after.refreshed() is after


def test_many_removals_from_one_segment(tmp_path: Path) -> None:
    """More than are passed over in the search index: it is built again without them."""
    vectors = unit_rows(700, DIM, seed=8)
    with CollectionWriter(tmp_path / "c", dim=DIM, provenance=PROVENANCE, source="test") as writer:
        for row, vector in enumerate(vectors):
            writer.add(f"{row}", vector)
        writer.commit()
    collection = Collection.open(tmp_path / "c")
    ranked = [hit.id for hit in collection.search(vectors[:1], 700)[0]]
    for count in (100, 200, 300, 690, 700):
        gone = [Removal(id) for id in ranked[:count] if id in collection]
        collection, _ = edit(collection, gone)
        assert [hit.id for hit in collection.search(vectors[:1], 5)[0]] == ranked[count : count + 5]
        assert collection.size == 700 - count
    assert Collection.open(tmp_path / "c").size == 0


def test_changes_from_many_threads(empty: Collection) -> None:
    """Each takes the lock in its turn; none is lost."""

    def add(number: int) -> None:
        edit(empty, [addition(number), Removal("nobody")])

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(add, range(40)))
    collection = Collection.open(empty.directory)
    assert collection.size == 40
    assert collection.manifest.version == 40
    verify(empty.directory)


def test_one_writer_at_a_time(empty: Collection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locking, "_PATIENCE_S", 0.05)
    directory = empty.directory
    with CollectionWriter(
        directory, dim=DIM, provenance=PROVENANCE, source="test", overwrite=True
    ) as writer:
        with pytest.raises(CollectionBusy, match="another build or change"):
            edit(empty, [addition(1)])
        with pytest.raises(CollectionBusy):
            drop_collection(directory)
        writer.add("a", VECTORS[0])
        writer.commit()
    collection, _ = edit(empty, [addition(1)])
    assert keys(collection) == ["a", "1"]


def test_dropped_and_made_again(
    empty: Collection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its lock is another one then."""
    directory = empty.directory
    drop_collection(directory)
    assert not directory.exists()
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(CollectionNotFound):
        Collection.open(directory)
    create_collection(directory, dim=DIM, provenance=PROVENANCE, source="a test")
    with pytest.raises(CollectionExists):
        create_collection(directory, dim=DIM, provenance=PROVENANCE, source="a test")
    monkeypatch.setattr(locking, "_PATIENCE_S", 0.05)
    with writing(directory), pytest.raises(CollectionBusy):
        edit(empty, [addition(1)])
    assert keys(edit(empty, [addition(1)])[0]) == ["1"]


def test_dropped_while_it_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the directory's making and its lock, another's collection is made there, and goes."""
    directory = tmp_path / "c"

    def make_directories(out: Path) -> bool:
        monkeypatch.undo()
        make_empty(out)
        drop_collection(out)
        return True

    monkeypatch.setattr("fromage_index.editor.make_directories", make_directories)
    with pytest.raises(CollectionBusy, match="made and dropped by another"):
        make_empty(directory)
    with pytest.raises(CollectionNotFound, match="gone"):
        drop_collection(directory)
    assert make_empty(directory).size == 0


def test_a_lock_of_what_was_moved_away_is_not_one(
    empty: Collection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The collection goes, and another is made there, between opening the lock file and locking
    it."""
    real, directory = fcntl.flock, empty.directory
    made: list[Path] = []

    def flock(descriptor: int, how: int) -> None:
        if not made:
            made.append(directory.rename(tmp_path / "aside"))
            create_collection(directory, dim=DIM, provenance=PROVENANCE, source="a test")
        real(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", flock)
    with writing(directory):
        monkeypatch.setattr(locking, "_PATIENCE_S", 0.05)
        with pytest.raises(CollectionBusy):
            edit(Collection.open(directory), [addition(1)])


def test_pages(empty: Collection) -> None:
    assert (empty.page(3).images, empty.page(3).next) == ([], None)
    collection, _ = edit(empty, [addition(n) for n in range(7)])
    page = collection.page(3)
    assert [record.key for record in page.images] == ["6", "5", "4"]
    run = everything(edit(collection, [Removal(page.images[-1].id), addition(9)])[0].store)
    fresh = collection.refreshed()
    assert run is not None
    assert compact(fresh, run)
    rest = fresh.refreshed().page(10, page.next)
    assert ([record.key for record in rest.images], rest.next) == (["3", "2", "1", "0"], None)


def test_a_format_1_collection_opens_and_changes(tmp_path: Path) -> None:
    """As earlier versions wrote it."""
    import hashlib
    import json

    with CollectionWriter(
        tmp_path / "c", dim=DIM, provenance=PROVENANCE, source="test", segment_rows=3
    ) as writer:
        for row in range(7):
            writer.add(f"{row}", VECTORS[row])
        writer.commit()
    file = tmp_path / "c" / "manifest.json"
    content = json.loads(file.read_text())
    for name in ("sha256", "version", "changed_at", "changes", "removed", "next_serial"):
        del content[name]
    for segment in content["segments"]:
        del segment["first"]
    content["format_version"] = 1
    content["sha256"] = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    file.write_text(json.dumps(content))

    collection = Collection.open(tmp_path / "c")
    collection, _ = edit(collection, [Removal(collection.ids[4]), addition(20)])
    collection = Collection.open(tmp_path / "c")
    assert [collection.image(id).key for id in collection.ids] == [
        "0",
        "1",
        "2",
        "3",
        "5",
        "6",
        "20",
    ]
