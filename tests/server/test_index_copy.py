"""`fromage index copy`: what POST …/images with `{"image": {"collection", "id"}}` does."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fromage_index.collection import Collection
from fromage_index.editor import Addition, create_collection, edit
from fromage_index.manifest import Provenance
from tests.server.collections import add, listed, served
from tests.server.pictures import encoded, picture, write_pictures
from tests.server.test_index_verbs import Capture, about, index, model, refused

Json = dict[str, Any]
NESTED = {"objects": {"bbox": [[1, 2]]}, "year": 1999}


@pytest.fixture
def shelf(tiny_bundle: Path, tmp_path: Path, capsys: Capture) -> Path:
    """Refers to `pic 00.png`, `pic 01.png` and `pic 02.png`, of which the first has metadata."""
    write_pictures(tmp_path / "pictures", 3)
    line = json.dumps({"file_name": "pic 00.png", **NESTED})
    (tmp_path / "pictures" / "metadata.jsonl").write_text(line)
    out = tmp_path / "collections" / "shelf"
    assert index("build", tmp_path / "pictures", "--collection", out, *model(tiny_bundle)) == 0
    assert index("create", out.parent / "mine", "--bundle", tiny_bundle) == 0
    capsys.readouterr()
    return out


def described(image: Json) -> Json:
    return {name: image[name] for name in ("id", "key", "width", "height", "metadata")}


def test_as_over_http(shelf: Path, tiny_bundle: Path, tmp_path: Path, capsys: Capture) -> None:
    mine = shelf.parent / "mine"
    other = {"key": "another", "metadata": {"seen": True}}
    with served(tiny_bundle, tmp_path, collections_dir=shelf.parent) as client:
        ids = {image["key"]: image["id"] for image in listed(client, "shelf")}
        first, second = ids["pic 00.png"], ids["pic 01.png"]
        assert client.post("/v1/collections", json={"name": "theirs"}).status_code == 201
        add(client, "theirs", {"image": {"collection": "shelf", "id": first}})
        add(client, "theirs", {"image": {"collection": "shelf", "id": second}} | other)
        assert index("copy", shelf, mine, first) == 0
        assert capsys.readouterr().out == "1 added, 0 there already; 1 images\n"
        options = ["--key", "another", "--metadata", '{"seen": true}']
        assert index("copy", shelf, mine, "pic 01.png", *options) == 0
        ours, theirs = (list(map(described, listed(client, name))) for name in ("mine", "theirs"))
        assert ours == theirs
        assert [(image["key"], image["metadata"]) for image in ours] == [
            ("another", {"seen": True}),
            ("pic 00.png", NESTED),
        ]
        for name in ("mine", "theirs"):
            copied = client.get(f"/v1/images/{name}/{ours[1]['id']}")
            assert copied.content == encoded(picture(0))
        key_only = {"image": {"collection": "shelf", "id": ids["pic 02.png"]}, "metadata": {}}
        (row,) = add(client, "theirs", key_only)["images"]
        assert (row["image"]["key"], row["image"]["metadata"]) == ("pic 02.png", {})


def test_many_by_key_with_the_embeddings_they_have(shelf: Path, capsys: Capture) -> None:
    mine = shelf.parent / "mine"
    assert index("copy", shelf, mine, "pic 01.png", "pic 02.png", "pic 01.png") == 0
    assert index("copy", shelf, mine, "pic 00.png", "pic 01.png") == 0
    assert "1 added, 1 there already; 3 images" in capsys.readouterr().out
    source, copy = Collection.open(shelf), Collection.open(mine)
    for key in about(shelf):
        (ours,), (theirs,) = (
            [row for row in one.store.live_rows if one.store.record(int(row)).key == key]
            for one in (copy, source)
        )
        vectors = copy.store.vectors(np.array([ours])), source.store.vectors(np.array([theirs]))
        np.testing.assert_allclose(*vectors, atol=1e-6)
    assert index("verify", mine) == 0


def test_what_cannot_be_copied(shelf: Path, tmp_path: Path, capsys: Capture) -> None:
    mine = shelf.parent / "mine"
    said = refused(1, capsys, "copy", shelf, mine, "pic 00.png", "nobody")
    assert "has no image 'nobody'; nothing is changed" in said
    both = ["pic 00.png", "pic 01.png"]
    assert "there are 2" in refused(2, capsys, "copy", shelf, mine, *both, "--key", "x")
    assert about(mine) == {}
    (tmp_path / "pictures" / "pic 00.png").unlink()
    lost = Collection.open(shelf)
    said = refused(1, capsys, "copy", shelf, mine, *both)
    assert lost.ids[0] in said
    assert list(about(mine)) == ["pic 01.png"]


def test_of_another_model(shelf: Path, tmp_path: Path, capsys: Capture) -> None:
    other, made = tmp_path / "other", Collection.open(shelf)
    create_collection(
        other,
        dim=made.dim,
        provenance=Provenance(bundle="b", bundle_hash="0" * 64),
        source="a test",
    )
    vector = np.ones(made.dim, np.float32)
    edit(Collection.open(other), [Addition(encoded(picture(9)), vector, (8, 8))])
    said = refused(1, capsys, "copy", other, shelf.parent / "mine", Collection.open(other).ids[0])
    assert "was made for bundle b" in said
    assert "fromage index add" in said


@pytest.mark.parametrize("name", ["a b", "ünï☃", "-x", ".hidden", "x" * 65])
def test_names_that_no_address_can_hold(
    tiny_bundle: Path, tmp_path: Path, capsys: Capture, name: str
) -> None:
    said = refused(1, capsys, "create", tmp_path / name, "--bundle", tiny_bundle)
    assert "is no name for a collection: it has 1 to 64 letters" in said
    assert not (tmp_path / name).exists()
