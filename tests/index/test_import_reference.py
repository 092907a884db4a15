from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fromage_index.collection import Collection
from fromage_index.errors import BadPickle, BadVectors, DimensionMismatch, NothingToIndex
from fromage_index.import_reference import import_reference
from tests.index.pictures import PROVENANCE, encode, plain, unit_rows, write_folder
from tests.index.test_build import keys

DEFAULTS: dict[str, Any] = {"dim": 4, "provenance": PROVENANCE}


def dump(file: Path, paths: Any, embeddings: Any) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(pickle.dumps({"paths": paths, "embeddings": embeddings}))
    return file


def test_rows_keep_their_order_through_several_files(tmp_path: Path) -> None:
    vectors = unit_rows(6, 4) * 5
    names = [f"https://example.org/{n}.jpg" for n in range(6)]
    for number in (2, 0, 1):
        part = slice(2 * number, 2 * number + 2)
        dump(tmp_path / f"cc3m_embeddings_{number}.pkl", names[part], vectors[part])
    dump(tmp_path / "other.pkl", ["x"], vectors[:1])
    for sources in (
        [tmp_path],
        [tmp_path / f"cc3m_embeddings_{number}.pkl" for number in (1, 2, 0)],
    ):
        out = tmp_path / f"out{len(sources)}"
        report = import_reference(sources, out, **DEFAULTS)
        assert (report.rows, report.urls, report.files, report.missing) == (6, 6, 0, 0)
        collection = Collection.open(out)
        assert keys(collection) == names
        for row, vector in enumerate(unit_rows(6, 4)):
            (hit,) = collection.search(vector[None], 1)[0]
            assert hit.row == row
            assert hit.score == pytest.approx(1.0)


def test_a_path_that_is_no_text_is_a_key_that_is(tmp_path: Path) -> None:
    root = tmp_path / "images"
    root.mkdir()
    (root / os.fsdecode(b"\xff.png")).write_bytes(encode(plain((1, 2, 3))))
    paths = [os.fsdecode(b"\xff.png"), "\ud800.png", "https://example.org/\udcff.png"]
    dump(tmp_path / "cc3m_embeddings.pkl", paths, unit_rows(3, 4))
    report = import_reference([tmp_path], tmp_path / "out", images_root=root, **DEFAULTS)
    assert (report.files, report.missing, report.urls) == (1, 1, 1)
    collection = Collection.open(tmp_path / "out")
    assert keys(collection) == ["?.png", "?.png", "https://example.org/?.png"]
    assert collection.open_bytes(collection.ids[0])[1] == "image/png"


def test_rows_without_a_file_are_kept(tmp_path: Path) -> None:
    root = tmp_path / "images"
    write_folder(root, ["a.png", "sub/b.png"])
    (root / "broken.png").write_text("not an image")
    (tmp_path / "outside.png").write_bytes(encode(plain((1, 2, 3))))
    (root / "link.png").symlink_to(tmp_path / "outside.png")
    paths = ["a.png", "sub/b.png", "broken.png", "gone.png", "../outside.png", "link.png", "a.png"]
    paths.append(str(root / "sub/b.png"))
    file = dump(tmp_path / "e.pkl", paths, unit_rows(8, 4))
    report = import_reference([file], tmp_path / "out", images_root=root, **DEFAULTS)
    assert (report.rows, report.files, report.missing) == (8, 5, 3)
    collection = Collection.open(tmp_path / "out")
    names = collection.ids
    assert len(set(names)) == 8
    assert keys(collection) == paths
    opens = [collection.readable(name) for name in names]
    assert opens == [True, True, False, False, False, False, True, True]
    record = collection.image(names[1])
    assert (record.width, record.height, record.content_type) == (24, 16, "image/png")
    assert collection.image(names[2]).width is None
    assert collection.image(names[7]).path == root / "sub/b.png"


def test_without_a_root_no_file_is_opened(tmp_path: Path) -> None:
    write_folder(tmp_path, ["a.png"])
    paths = ["a.png", str(tmp_path / "a.png")]
    file = dump(tmp_path / "e.pkl", paths, unit_rows(2, 4))
    report = import_reference([file], tmp_path / "out", **DEFAULTS)
    assert report.missing == 2
    collection = Collection.open(tmp_path / "out")
    assert [collection.readable(name) for name in collection.ids] == [False, False]


@pytest.mark.parametrize(
    "embeddings", [list(unit_rows(3, 4)), [unit_rows(3, 4)[:2], unit_rows(3, 4)[2:]]]
)
def test_lists_of_rows_and_of_batches(tmp_path: Path, embeddings: Any) -> None:
    file = dump(tmp_path / "e.pkl", ["https://a", "https://b", "https://c"], embeddings)
    import_reference([file], tmp_path / "out", **DEFAULTS)
    (hit,) = Collection.open(tmp_path / "out").search(unit_rows(3, 4)[2:], 1)[0]
    assert hit.row == 2


@pytest.mark.parametrize(
    ("paths", "embeddings", "error", "match"),
    [
        (["a"], unit_rows(2, 4), BadVectors, r"1 paths.*\(2, 4\)"),
        (["a"], unit_rows(1, 5), DimensionMismatch, "length 5"),
        (["a"], np.zeros((1, 4), np.float32), BadVectors, "of a has no direction"),
        (["a"], np.full((1, 4), np.nan, np.float32), BadVectors, "no direction"),
        (["a"], np.ones((1, 4), np.int64), BadPickle, "floating"),
        (["a"], ["b"], BadPickle, "list of something else"),
        ([1], unit_rows(1, 4), BadPickle, "list of strings"),
        ("a", unit_rows(1, 4), BadPickle, "list of strings"),
        ([], np.empty((0, 4), np.float32), NothingToIndex, "no image"),
    ],
)
def test_what_does_not_fit(
    tmp_path: Path, paths: Any, embeddings: Any, error: type[Exception], match: str
) -> None:
    file = dump(tmp_path / "e.pkl", paths, embeddings)
    with pytest.raises(error, match=match):
        import_reference([file], tmp_path / "out", **DEFAULTS)
    assert not (tmp_path / "out").exists()


def test_nothing_there(tmp_path: Path) -> None:
    for source in (tmp_path, tmp_path / "nowhere.pkl"):
        with pytest.raises(NothingToIndex, match=r"cc3m_embeddings\*\.pkl"):
            import_reference([source], tmp_path / "out", **DEFAULTS)
    file = tmp_path / "other.pkl"
    file.write_bytes(pickle.dumps({"paths": []}))
    with pytest.raises(BadPickle, match="not paths and embeddings"):
        import_reference([file], tmp_path / "out", **DEFAULTS)
