"""What is sound of a damaged collection stays; the rest is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fromage_index.build import build_from_folder
from fromage_index.collection import Collection
from fromage_index.editor import Addition, Amendment, Removal, create_collection, edit
from fromage_index.errors import CollectionDamaged
from fromage_index.repair import repair
from fromage_index.segment import Float32
from fromage_index.store import verify
from tests.index.pictures import PROVENANCE, colour_embed, encode, plain, write_folder


def embed_one(picture: Any) -> Float32:
    vector: Float32 = colour_embed([picture])[0]
    return vector


@pytest.fixture
def held(tmp_path: Path) -> Path:
    """Two segments of four images; of the first one is removed, another amended."""
    out = tmp_path / "held"
    create_collection(out, dim=4, provenance=PROVENANCE, source="a test")
    collection = Collection.open(out)
    for first in (0, 4):
        pictures = [plain((number * 30, 0, 99)) for number in range(first, first + 4)]
        added = [
            Addition(encode(p), embed_one(p), p.size, f"{n}", {"n": n})
            for n, p in enumerate(pictures, first)
        ]
        collection, _ = edit(collection, list(added))
    ids = collection.ids
    edit(collection, [Removal(ids[1]), Amendment(ids[2], {"n": 20})])
    return out


def flip(file: Path, place: int = -3) -> None:
    data = bytearray(file.read_bytes())
    data[place] ^= 1
    file.write_bytes(data)


def keys(out: Path) -> list[str]:
    verify(out)
    collection = Collection.open(out)
    found = [collection.image(id) for id in collection.ids]
    assert all(collection.readable(id) for id in collection.ids)
    # Each is what its vector says.
    for record in found:
        picture = plain((int(record.key) * 30, 0, 99))
        vector = embed_one(picture)
        (hit,) = collection.search((vector / np.linalg.norm(vector))[None], 1)[0]
        assert hit.id == record.id
    return [record.key for record in found]


def test_a_sound_collection_stays_as_it_is(held: Path) -> None:
    before = (held / "manifest.json").read_bytes()
    (held / "segment-left-v9.records.jsonl").write_text("of a crash")
    report = repair(held)
    assert (report.images, report.lost, report.guessed) == (7, [], [])
    assert (held / "manifest.json").read_bytes() == before
    assert not (held / "segment-left-v9.records.jsonl").exists()


def test_a_flipped_image_is_lost_and_no_other(held: Path) -> None:
    flip(min(held.glob("*images.bin")))
    with pytest.raises(CollectionDamaged):
        verify(held)
    report = repair(held)
    assert (report.images, report.lost) == (6, ["3"])
    assert keys(held) == ["0", "2", "4", "5", "6", "7"]
    assert Collection.open(held).image(Collection.open(held).ids[1]).metadata == {"n": 20}


@pytest.mark.parametrize("harm", ["flip", "remove"])
def test_vectors_are_made_again(held: Path, harm: str) -> None:
    file = max(held.glob("*vectors.npy"))
    if harm == "flip":
        flip(file)
    else:
        file.unlink()
    report = repair(held, embed_one)
    assert (report.images, report.embedded, report.lost) == (7, 4, [])
    assert keys(held) == ["0", "2", "3", "4", "5", "6", "7"]


def test_without_a_model_images_without_vectors_are_lost(held: Path) -> None:
    max(held.glob("*vectors.npy")).unlink()
    report = repair(held)
    assert report.lost == ["4", "5", "6", "7"]
    assert keys(held) == ["0", "2", "3"]


def test_a_damaged_record_is_lost_and_others_are_read_with_a_warning(held: Path) -> None:
    file = max(held.glob("*records.jsonl"))
    flip(file, 0)
    report = repair(held)
    assert (report.lost, report.guessed) == (["?"], [file.name])
    assert keys(held) == ["0", "2", "3", "5", "6", "7"]


def test_records_that_are_gone_take_their_images_along(held: Path) -> None:
    max(held.glob("*records.jsonl")).unlink()
    assert repair(held).lost == ["?"] * 4
    assert keys(held) == ["0", "2", "3"]


def test_a_damaged_file_of_changes(held: Path) -> None:
    """What it said is forgotten where it can't be read: the removed image is back."""
    (file,) = held.glob("changes-*")
    flip(file, 0)
    report = repair(held)
    assert (report.images, report.guessed) == (8, [file.name])
    assert keys(held) == list("01234567")
    assert Collection.open(held).image(Collection.open(held).ids[2]).metadata == {"n": 20}


def test_a_collection_of_references(tmp_path: Path) -> None:
    write_folder(tmp_path / "folder", ["a.png", "b.png"])
    out = tmp_path / "out"
    build_from_folder(tmp_path / "folder", out, colour_embed, dim=4, provenance=PROVENANCE)
    flip(min(out.glob("*vectors.npy")))
    (tmp_path / "folder" / "b.png").unlink()
    report = repair(out, embed_one)
    assert (report.images, report.embedded, report.lost) == (1, 1, ["b.png"])


def test_a_damaged_manifest_cannot_be_repaired(held: Path) -> None:
    flip(held / "manifest.json", 40)
    with pytest.raises(CollectionDamaged, match=r"manifest\.json"):
        repair(held)
