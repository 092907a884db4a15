from __future__ import annotations

import json
import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fromage_index.build import Item, build_from_folder, build_from_items
from fromage_index.collection import Collection
from fromage_index.errors import (
    BadKey,
    BadMetadata,
    BadVectors,
    CollectionExists,
    DimensionMismatch,
    ImageUnavailable,
    NothingToIndex,
    UnreadableImage,
)
from fromage_index.filter import Filter
from tests.index.pictures import PROVENANCE, colour_embed, encode, plain, write_folder

DEFAULTS: dict[str, Any] = {"dim": 4, "provenance": PROVENANCE, "batch_size": 3}


def keys(collection: Collection) -> list[str]:
    return [collection.image(name).key for name in collection.ids]


def test_a_folder_in_order(tmp_path: Path) -> None:
    folder, out = tmp_path / "folder", tmp_path / "out"
    names = ["b.png", "a/x.JPG", "a/ü ñ.png", "z.jpeg", "a.png", "c.webp.png"]
    write_folder(folder, names)
    write_folder(folder, [".hidden.png", ".thumbs/x.png", "notes.png.txt"])
    report = build_from_folder(folder, out, colour_embed, **DEFAULTS)
    collection = Collection.open(out)
    assert keys(collection) == sorted(names)
    assert (report.images, report.unreadable, report.log.exists()) == (6, 0, False)
    for name in collection.ids:
        record = collection.image(name)
        assert record.path == folder.resolve() / record.key
        assert (record.width, record.height) == (24, 16)
        assert collection.open_bytes(name)[0] == (folder / record.key).read_bytes()


def test_an_item_whose_key_is_no_text_builds_nothing(tmp_path: Path) -> None:
    items = [Item(key, encode(plain((9, 9, 9))), {}) for key in ("a", "\udcff")]
    with pytest.raises(BadKey, match="character 0"):
        build_from_items(items, tmp_path / "out", colour_embed, source="a test", **DEFAULTS)
    assert not (tmp_path / "out").exists()


def test_each_image_has_its_own_vector(tmp_path: Path) -> None:
    colours = [(250, 0, 0), (0, 250, 0), (0, 0, 250), (250, 250, 0), (0, 250, 250)]
    items = [Item(f"{c}", encode(plain(c)), {"colour": list(c)}) for c in colours]
    build_from_items(items, tmp_path / "out", colour_embed, source="a test", **DEFAULTS)
    collection = Collection.open(tmp_path / "out")
    for colour in colours:
        vector = colour_embed([plain(colour)])
        (hit,) = collection.search(vector / np.linalg.norm(vector), 1)[0]
        assert collection.image(hit.id).metadata == {"colour": list(colour)}
        assert collection.open_bytes(hit.id)[0] == encode(plain(colour))


def test_unreadable_files_are_named(tmp_path: Path) -> None:
    folder, out = tmp_path / "folder", tmp_path / "out"
    write_folder(folder, ["good.png", "last.png"])
    (folder / "empty.png").write_bytes(b"")
    (folder / "text.jpg").write_text("not a picture")
    (folder / "cut.png").write_bytes(encode(Image.effect_noise((90, 90), 50))[:900])
    (folder / "drawing.png").write_text("<svg/>")
    os.mkfifo(folder / "pipe.png")
    (folder / "wrong-name.gif").write_bytes(encode(plain((0, 0, 0)), "JPEG"))
    report = build_from_folder(folder, out, colour_embed, **DEFAULTS)
    assert (report.images, report.unreadable) == (3, 5)
    logged = dict(line.split("\t") for line in report.log.read_text().splitlines())
    assert list(logged) == ["cut.png", "drawing.png", "empty.png", "pipe.png", "text.jpg"]
    assert "cut short" in logged["cut.png"]
    assert "SVG" in logged["drawing.png"]
    assert "empty" in logged["empty.png"]
    assert "regular" in logged["pipe.png"]
    assert "text" in logged["text.jpg"]
    collection = Collection.open(out)
    assert collection.manifest.unreadable == 5
    types = [collection.image(name).content_type for name in collection.ids]
    assert types == ["image/png", "image/png", "image/jpeg"]


def test_links_that_leave_the_folder(tmp_path: Path) -> None:
    folder, outside = tmp_path / "folder", tmp_path / "outside"
    write_folder(folder, ["a.png"])
    write_folder(outside, ["secret.png"])
    (folder / "inner.png").symlink_to("a.png")
    (folder / "leaving.png").symlink_to(outside / "secret.png")
    (folder / "linked").symlink_to(outside)
    (folder / "loop").symlink_to(folder)
    (folder / "dangling.png").symlink_to("nowhere.png")
    report = build_from_folder(folder, tmp_path / "out", colour_embed, **DEFAULTS)
    collection = Collection.open(tmp_path / "out")
    assert keys(collection) == ["a.png", "inner.png"]
    logged = [line.split("\t")[0] for line in report.log.read_text().splitlines()]
    assert logged == ["dangling.png", "leaving.png", "linked", "loop"]
    # A link put there later isn't followed either.
    (folder / "inner.png").unlink()
    (folder / "inner.png").symlink_to(outside / "secret.png")
    inner = collection.ids[1]
    assert not collection.readable(inner)
    with pytest.raises(ImageUnavailable):
        collection.open_bytes(inner)


def test_files_that_change_afterwards(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    write_folder(folder, ["a.png", "b.png", "c.png"])
    build_from_folder(folder, tmp_path / "out", colour_embed, **DEFAULTS)
    collection = Collection.open(tmp_path / "out")
    a, b, c = collection.ids
    assert all(collection.readable(name) for name in (a, b, c))
    (folder / "a.png").unlink()
    (folder / "b.png").write_text("root:x:0:0")
    assert [collection.readable(name) for name in (a, b, c)] == [False, False, True]
    for name in (a, b):
        with pytest.raises(UnreadableImage):
            collection.open_bytes(name)


def test_copied_images_need_no_folder(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    write_folder(folder, ["a.png", "b.jpg"])
    stored = [(folder / name).read_bytes() for name in ("a.png", "b.jpg")]
    build_from_folder(folder, tmp_path / "out", colour_embed, copy=True, **DEFAULTS)
    for name in ("a.png", "b.jpg"):
        (folder / name).unlink()
    collection = Collection.open(tmp_path / "out")
    assert [collection.open_bytes(name)[0] for name in collection.ids] == stored
    assert [collection.image(name).path for name in collection.ids] == [None, None]


@pytest.mark.parametrize("form", ["jsonl", "csv"])
def test_metadata_beside_the_images(tmp_path: Path, form: str) -> None:
    folder = tmp_path / "folder"
    write_folder(folder, ["a.png", "sub/b.png", "c.png"])
    if form == "jsonl":
        lines = [
            {"file_name": "a.png", "tags": ["cat", "dog"], "year": 1999},
            {"path": "./sub/b.png", "year": 2001, "caption": "b"},
            {"file_name": "gone.png", "year": 1},
        ]
        text = "\n".join(json.dumps(line) for line in lines)
    else:
        text = 'file_name,year,caption\na.png,1999,"x, y"\nsub/b.png,2001,b\ngone.png,1,\n'
    (folder / f"metadata.{form}").write_text(text)
    report = build_from_folder(folder, tmp_path / "out", colour_embed, **DEFAULTS)
    assert report.unreadable == 0
    assert report.log.read_text().startswith("gone.png\t")
    collection = Collection.open(tmp_path / "out")
    found = [collection.image(name).metadata for name in collection.ids]
    first = {"tags": ["cat", "dog"]} if form == "jsonl" else {"caption": "x, y"}
    assert found == [{"year": 1999, **first}, {}, {"year": 2001, "caption": "b"}]
    recent = Filter.parse({"year": {"gte": 2000}})
    (hit,) = collection.search(np.full((1, 4), 0.5, np.float32), 5, filter=recent)[0]
    assert collection.image(hit.id).key == "sub/b.png"


def test_csv_cells_that_look_like_numbers(tmp_path: Path) -> None:
    write_folder(tmp_path / "f", ["a.png", "b.png"])
    (tmp_path / "f/metadata.csv").write_text("path,zip,size,mixed\na.png,007,1.50,1\nb.png,12,,x\n")
    build_from_folder(tmp_path / "f", tmp_path / "out", colour_embed, **DEFAULTS)
    collection = Collection.open(tmp_path / "out")
    found = [collection.image(name).metadata for name in collection.ids]
    assert found == [{"zip": "007", "size": 1.5, "mixed": "1"}, {"zip": "12", "mixed": "x"}]


@pytest.mark.parametrize(
    ("file", "text", "match"),
    [
        ("metadata.jsonl", '{"file_name": "a.png"}\n{"file_name": ', "line 2"),
        ("metadata.jsonl", "[1]", "line 1: a JSON object"),
        ("metadata.jsonl", '{"file_name": "a.png", "x": NaN}', "NaN"),
        ("metadata.jsonl", '{"file_name": "a.png", "x": -1e999}', "infinite"),
        ("metadata.jsonl", '{"file_name": "a.png", "x": "\\ud800"}', "surrogate"),
        ("metadata.jsonl", "[" * 100_000, "nested too deeply"),
        (
            "metadata.jsonl",
            f'{{"file_name": "a.png", "at": {{"x": [1, {"7" * 5000}]}}}}',
            r"at\.x\.1 is an integer of 5,000 digits, 77777777777777777777…; at most 4,300",
        ),
        ("metadata.jsonl", '{"name": "a.png"}', "file_name or path"),
        ("metadata.csv", "file_name,x\na.png,1,2\n", "row 2"),
        ("metadata.csv", "file_name,x\na.png\n", "row 2"),
    ],
)
def test_bad_metadata_is_named(tmp_path: Path, file: str, text: str, match: str) -> None:
    write_folder(tmp_path / "f", ["a.png"])
    (tmp_path / "f" / file).write_text(text)
    with pytest.raises(BadMetadata, match=match):
        build_from_folder(tmp_path / "f", tmp_path / "out", colour_embed, **DEFAULTS)
    assert not (tmp_path / "out").exists()


def test_progress_and_decoding_threads(tmp_path: Path) -> None:
    seen: list[tuple[int, int | None]] = []
    threads: set[str] = set()

    def prepare(image: Image.Image) -> Image.Image:
        threads.add(threading.current_thread().name)
        return image

    items = [Item(str(n), encode(plain((n, n, n)))) for n in range(8)]
    build_from_items(
        items,
        tmp_path / "out",
        colour_embed,
        source="a test",
        prepare=prepare,
        progress=lambda done, total: seen.append((done, total)),
        **DEFAULTS,
    )
    assert seen == [(3, 8), (6, 8), (8, 8)]
    assert threads
    assert all(name.startswith("decode") for name in threads)


def test_nothing_to_index(tmp_path: Path) -> None:
    (tmp_path / "f").mkdir()
    for folder in (tmp_path / "f", tmp_path / "nowhere"):
        with pytest.raises(NothingToIndex):
            build_from_folder(folder, tmp_path / "out", colour_embed, **DEFAULTS)
    (tmp_path / "f/x.png").write_text("text")
    with pytest.raises(NothingToIndex, match="1 could not be read"):
        build_from_folder(tmp_path / "f", tmp_path / "out", colour_embed, **DEFAULTS)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("vectors", "error"),
    [
        (np.full((3, 4), np.nan, np.float32), BadVectors),
        (np.ones((3, 5), np.float32), DimensionMismatch),
        (np.ones((2, 4), np.float32), DimensionMismatch),
    ],
)
def test_a_bad_embedder_leaves_nothing(tmp_path: Path, vectors: Any, error: Any) -> None:
    write_folder(tmp_path / "f", ["a.png", "b.png", "c.png"])
    with pytest.raises(error):
        build_from_folder(tmp_path / "f", tmp_path / "out", lambda _: vectors, **DEFAULTS)
    assert not (tmp_path / "out").exists()


def test_overwrite(tmp_path: Path) -> None:
    folder, out = tmp_path / "folder", tmp_path / "folder" / "collection"
    write_folder(folder, ["a.png", "broken.png"])
    (folder / "broken.png").write_text("")
    build_from_folder(folder, out, colour_embed, **DEFAULTS)
    Collection.open(out).thumbnail(Collection.open(out).ids[0], 128)
    (folder / "broken.png").unlink()
    write_folder(folder, ["b.png"])
    with pytest.raises(CollectionExists, match="--overwrite"):
        build_from_folder(folder, out, colour_embed, **DEFAULTS)
    build_from_folder(folder, out, colour_embed, overwrite=True, **DEFAULTS)
    assert keys(Collection.open(out)) == ["a.png", "b.png"]
    assert not (out / "unreadable.log").exists()
