"""What a collection promises about its files."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from fromage_index.collection import Collection
from fromage_index.errors import (
    BadVectors,
    CollectionDamaged,
    CollectionExists,
    CollectionNotFound,
    DimensionMismatch,
    ImageNotFound,
    ImageUnavailable,
)
from fromage_index.manifest import read_manifest, write_manifest
from fromage_index.store import verify
from fromage_index.writer import CollectionWriter
from tests.index.conftest import MakeCollection
from tests.index.pictures import PROVENANCE, encode, plain, unit_rows


@pytest.fixture
def held(tmp_path: Path) -> Path:
    """Ten images kept in a collection of three segments."""
    out = tmp_path / "held"
    with CollectionWriter(
        out, dim=4, provenance=PROVENANCE, source="a test", segment_rows=4
    ) as writer:
        for row, vector in enumerate(unit_rows(10, 4)):
            data = encode(plain((row * 20, 0, 0)))
            writer.add(f"{row}.png", vector * 3, data=data, size=(24, 16), metadata={"row": row})
        writer.commit()
    return out


def test_rows_come_back_across_segments(held: Path) -> None:
    collection = Collection.open(held)
    assert (collection.name, collection.size, collection.dim) == ("held", 10, 4)
    assert collection.provenance == PROVENANCE
    assert len(collection.manifest.segments) == 3
    for row, vector in enumerate(unit_rows(10, 4)):
        (hit,) = collection.search(vector[None], 1)[0]
        record = collection.image(hit.id)
        assert (hit.row, record.key, record.metadata) == (row, f"{row}.png", {"row": row})
        assert (record.width, record.height, record.content_type) == (24, 16, "image/png")
        assert collection.open_bytes(hit.id) == (encode(plain((row * 20, 0, 0))), "image/png")
        assert collection.readable(hit.id)


def test_ids_are_stable_and_distinct(make_collection: MakeCollection, tmp_path: Path) -> None:
    def ids(out: str, vectors: np.ndarray) -> list[str]:
        collection = make_collection(vectors, out=tmp_path / out)
        return [hit.id for hit in collection.search(vectors[:1], 20)[0]]

    vectors = unit_rows(9, 4)
    assert ids("first", vectors) == ids("second", vectors)
    assert len(set(ids("third", np.concatenate([vectors, vectors])))) == 18


@pytest.mark.parametrize("suffix", ["vectors.npy", "records.jsonl", "images.bin"])
@pytest.mark.parametrize("harm", ["flip", "cut", "remove"])
def test_damage_is_found_and_named(held: Path, suffix: str, harm: str) -> None:
    file = sorted(held.glob(f"*{suffix}"))[1]
    data = bytearray(file.read_bytes())
    if harm == "flip":
        data[len(data) // 2] ^= 1
        file.write_bytes(data)
    elif harm == "cut":
        file.write_bytes(data[:-1])
    else:
        file.unlink()
    with pytest.raises(CollectionDamaged, match=file.name) as caught:
        verify(held)
    assert caught.value.file == file
    if suffix != "images.bin" or harm != "flip":
        with pytest.raises(CollectionDamaged, match=file.name):
            Collection.open(held)


def test_a_flipped_image_harms_only_itself(held: Path) -> None:
    file = min(held.glob("*images.bin"))
    data = bytearray(file.read_bytes())
    data[10] ^= 1
    file.write_bytes(data)
    collection = Collection.open(held)
    ids = [collection.search(vector[None], 1)[0][0].id for vector in unit_rows(10, 4)]
    assert [collection.readable(name) for name in ids] == [False] + [True] * 9
    with pytest.raises(CollectionDamaged, match=file.name):
        collection.open_bytes(ids[0])
    with pytest.raises(CollectionDamaged, match=file.name):
        collection.thumbnail(ids[0], 64)


def test_a_changed_manifest_is_found(held: Path) -> None:
    file = held / "manifest.json"
    text = file.read_text()
    for changed in (text.replace('"dim": 4', '"dim": 5'), text[:-20], "[]", "{}"):
        file.write_text(changed)
        with pytest.raises(CollectionDamaged, match=r"manifest\.json"):
            Collection.open(held)


def test_a_manifest_that_was_not_finished_does_not_count(held: Path) -> None:
    (held / ".manifest.json.1234").write_text('{"dim":')
    assert Collection.open(held).size == 10
    write_manifest(held, read_manifest(held))
    assert Collection.open(held).size == 10


def test_no_collection(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(CollectionNotFound, match="index build"):
            Collection.open(path)


def test_unknown_images(make_collection: MakeCollection) -> None:
    collection = make_collection(unit_rows(3, 4))
    for call in (collection.image, collection.open_bytes, collection.readable):
        with pytest.raises(ImageNotFound, match="'nobody'"):
            call("nobody")


def test_a_url_is_shown_but_not_opened(make_collection: MakeCollection) -> None:
    vectors = unit_rows(3, 4)
    collection = make_collection(vectors)
    (hit,) = collection.search(vectors[1:2], 1)[0]
    record = collection.image(hit.id)
    assert record.url == record.key == "https://example.org/1.png"
    assert (record.path, record.width, record.height) == (None, None, None)
    assert collection.readable(hit.id)
    with pytest.raises(ImageUnavailable, match=r"example\.org"):
        collection.open_bytes(hit.id)


@pytest.mark.parametrize(
    ("vector", "error"),
    [
        ([np.nan, 1, 0, 0], BadVectors),
        ([np.inf, 1, 0, 0], BadVectors),
        ([0, 0, 0, 0], BadVectors),
        ([1, 0, 0], DimensionMismatch),
    ],
)
def test_vectors_without_direction_are_refused(
    tmp_path: Path, vector: list[float], error: type[Exception]
) -> None:
    writer = CollectionWriter(tmp_path / "out", dim=4, provenance=PROVENANCE, source="a test")
    with writer, pytest.raises(error, match="some key"):
        writer.add("some key", vector)
    assert not (tmp_path / "out").exists()


def test_other_peoples_files_are_left_alone(tmp_path: Path, held: Path) -> None:
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "letter.txt").write_text("dear")
    (tmp_path / "file").write_text("")
    for out, overwrite in ((taken, True), (tmp_path / "file", True), (held, False)):
        with (
            pytest.raises(CollectionExists),
            CollectionWriter(
                out, dim=4, provenance=PROVENANCE, source="a test", overwrite=overwrite
            ),
        ):
            pass
    assert (taken / "letter.txt").read_text() == "dear"
    assert Collection.open(held).size == 10


def test_overwriting_does_not_disturb_who_reads(held: Path) -> None:
    before = Collection.open(held)
    name = before.search(unit_rows(10, 4)[:1], 1)[0][0].id
    image, thumbnail = before.open_bytes(name), before.thumbnail(name, 128)
    (held / "notes.txt").write_text("mine")
    with CollectionWriter(
        held, dim=8, provenance=PROVENANCE, source="another", overwrite=True
    ) as writer:
        writer.add("new", unit_rows(1, 8)[0], data=encode(plain((1, 2, 3))))
        assert Collection.open(held).size == 10
        writer.commit()
    assert (Collection.open(held).size, Collection.open(held).dim) == (1, 8)
    assert before.open_bytes(name) == image
    assert before.thumbnail(name, 128) == thumbnail
    assert before.image(name).metadata == {"row": 0}
    assert len(list(held.glob("segment-*"))) == 3
    assert (held / "notes.txt").read_text() == "mine"


def test_a_moved_collection_opens(held: Path, tmp_path: Path) -> None:
    shutil.move(held, tmp_path / "moved")
    assert Collection.open(tmp_path / "moved").size == 10
