"""Collections that change, by both clients against the real server."""

import secrets
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from fromage_client import (
    Client,
    Collection,
    Forbidden,
    InvalidRequest,
    NewImage,
    NotFound,
    UnreadableFile,
    fold,
)
from fromage_client.additions import BATCH
from fromage_client.collection import PAGE
from tests.clients.faces import FACES, client_of


@pytest.fixture(scope="module", params=FACES)
def real(request: pytest.FixtureRequest, server: str) -> Iterator[Client]:
    with client_of(request.param, server) as client:
        yield client


@pytest.fixture
def mine(real: Client) -> Iterator[Collection]:
    """An empty collection of the test's own."""
    collection = real.create_collection(f"c{secrets.token_hex(4)}")
    yield collection
    collection.drop()


def pixels(number: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """One colour each: another image for every number."""
    return np.full((8, 8, 3), (number, 255 - number, 7), np.uint8)


def test_a_collection_from_beginning_to_end(real: Client) -> None:
    name = f"c{secrets.token_hex(4)}"
    made = real.create_collection(name)
    [card] = [card for card in real.collections() if card.name == name]
    assert (card.size, card.writable, card.droppable, card.default) == (0, True, True, False)
    with pytest.raises(InvalidRequest, match=name) as twice:
        real.create_collection(name)
    assert twice.value.code == "collection_exists"
    made.drop()
    assert name not in [card.name for card in real.collections()]
    with pytest.raises(NotFound):
        made.drop()
    with pytest.raises(Forbidden):
        real.collection("cc3m").drop()


def test_what_is_added_is_found_listed_changed_and_deleted(
    real: Client, mine: Collection, png: bytes, tmp_path: Path
) -> None:
    path = tmp_path / "red.png"
    path.write_bytes(png)
    [red] = mine.add(path, metadata={"colour": "red"})
    assert (red.status, red.error) == ("added", None)
    assert red.image is not None
    assert (red.image.key, red.image.metadata) == ("red.png", {"colour": "red"})
    assert mine.add(path)[0].status == "exists"
    more = mine.add(NewImage(pixels(n), key=f"n{n}", metadata={"n": n}) for n in range(3))
    assert [row.status for row in more] == ["added"] * 3
    assert mine.size() == 4
    assert real.image(red.image) == png

    found = real.retrieve("a", collection=mine.name, k=9)
    assert {image.key for image in found.images} == {"red.png", "n0", "n1", "n2"}
    changed = mine.update(red.image, {"colour": None, "n": 7})
    assert changed.metadata == {"n": 7}
    chosen = real.retrieve("a", collection=mine.name, k=9, filter={"n": {"gte": 2}}).images
    assert {image.key for image in chosen} == {"red.png", "n2"}

    for image in chosen:
        mine.delete(image)
    assert [image.key for image in mine.images()] == ["n1", "n0"]
    with pytest.raises(NotFound):
        mine.delete(red.image)


def test_a_reply_shows_what_was_just_added(real: Client, mine: Collection, png: bytes) -> None:
    [only] = mine.add(png)
    events = real.stream("hi", collection=mine.name, ret_scale_factor=50.0, max_tokens=4)
    assert only.image is not None
    assert [image.id for image in fold(events).images] == [only.image.id]


def test_more_than_a_page_comes_whole(mine: Collection) -> None:
    count = PAGE + 3
    assert count > BATCH
    done = mine.add(pixels(number) for number in range(count))
    ids = [row.image.id for row in done if row.image is not None]
    assert [image.id for image in mine.images()] == ids[::-1]
    assert len(set(ids)) == count


def test_one_that_is_no_image_keeps_nothing_else_out(
    mine: Collection, png: bytes, tmp_path: Path
) -> None:
    good, lost, bad = mine.add([png, tmp_path / "nowhere.png", b"only words"])
    assert (good.status, lost.status, bad.status) == ("added", "failed", "failed")
    assert isinstance(lost.error, UnreadableFile)
    assert mine.size() == 1
    assert isinstance(bad.error, InvalidRequest)
    assert bad.error.code == "unreadable_image"
    [alone] = mine.add(b"only words")
    assert alone.status == "failed"
    assert isinstance(alone.error, InvalidRequest)
    assert alone.error.code == "unreadable_image"


def test_uploads_and_images_of_other_collections(
    real: Client, mine: Collection, png: bytes
) -> None:
    [other] = real.retrieve("a dog", collection="cc3m", k=1).images
    upload = real.upload(png)
    rows = mine.add([upload, other])
    assert [row.status for row in rows] == ["added", "added"]
    assert mine.add([png])[0].status == "exists"
    assert rows[1].image is not None
    assert real.image(rows[1].image) == real.image(other)


def test_a_collection_that_is_not_there(real: Client, png: bytes) -> None:
    nowhere = real.collection("nowhere")
    for ask in (lambda: nowhere.add(png), nowhere.size, nowhere.drop):
        with pytest.raises(NotFound, match="nowhere"):
            ask()
    with pytest.raises(InvalidRequest, match="name"):
        real.create_collection("no name at all")
