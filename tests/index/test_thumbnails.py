from __future__ import annotations

import io
import os
from pathlib import Path

import pytest
from PIL import Image

from fromage_index.build import Item, build_from_folder, build_from_items
from fromage_index.collection import Collection
from tests.index.pictures import PROVENANCE, colour_embed, encode, plain


@pytest.fixture
def out(tmp_path: Path) -> Path:
    items = [
        Item("wide", encode(plain((9, 99, 199), (1600, 400)))),
        Item("small", encode(plain((1, 1, 1)))),
    ]
    build_from_items(
        items, tmp_path / "out", colour_embed, dim=4, provenance=PROVENANCE, source="a test"
    )
    return tmp_path / "out"


def size(collection: Collection, name: str, pixels: int) -> tuple[int, int]:
    data, content_type = collection.thumbnail(name, pixels)
    image = Image.open(io.BytesIO(data))
    assert (image.format, content_type) == ("JPEG", "image/jpeg")
    return image.size


def test_sizes_are_rounded_up_to_a_few(out: Path) -> None:
    collection = Collection.open(out)
    wide, small = collection.ids
    found = {pixels: size(collection, wide, pixels) for pixels in range(1, 3000, 13)}
    assert set(found.values()) == {(128, 32), (256, 64), (512, 128), (1024, 256)}
    assert found[1] == (128, 32)
    assert found[2900] == (1024, 256)
    assert size(collection, small, 999) == (24, 16)
    kept = [file for file in (out / "thumbnails").rglob("*") if file.is_file()]
    assert len(kept) == 5


def test_kept_thumbnails_are_used(out: Path) -> None:
    collection = Collection.open(out)
    name = collection.ids[0]
    first = collection.thumbnail(name, 128)
    (kept,) = (file for file in (out / "thumbnails").rglob("*.jpg"))
    kept.write_bytes(encode(plain((0, 0, 0)), "JPEG"))
    assert collection.thumbnail(name, 100)[0] == kept.read_bytes() != first[0]


def test_a_changed_picture_gets_a_new_thumbnail(tmp_path: Path) -> None:
    file = tmp_path / "folder" / "a.png"
    file.parent.mkdir()
    file.write_bytes(encode(plain((250, 0, 0))))
    build_from_folder(file.parent, tmp_path / "out", colour_embed, dim=4, provenance=PROVENANCE)
    collection = Collection.open(tmp_path / "out")
    (name,) = collection.ids
    before = collection.thumbnail(name, 128)[0]
    file.write_bytes(encode(plain((0, 250, 0))))
    os.utime(file, (2e9, 2e9))
    assert collection.thumbnail(name, 128)[0] != before


def test_nowhere_to_keep_them(out: Path) -> None:
    (out / "thumbnails").write_text("a file in the way")
    collection = Collection.open(out)
    assert size(collection, collection.ids[0], 200) == (256, 64)
