"""Both clients against a real server that has little room: for bodies, and for uploads."""

import io
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from fromage_client import (
    Client,
    Collection,
    InvalidRequest,
    NewImage,
    NotFound,
    ServerError,
    UnusableMetadata,
)
from fromage_client.additions import BATCH_BYTES
from fromage_client.messages import INLINE_LIMIT
from tests.clients.faces import FACES, client_of
from tests.server import tiny
from tests.server.process import serving

pytestmark = pytest.mark.slow  # a server of its own, half a minute

BODY_MIB, STORE_MIB = 4, 5


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    work = tmp_path_factory.mktemp("narrow")
    tiny.write_bundle(work / "bundle")
    limits = ("--max-body-mib", str(BODY_MIB), "--upload-store-mib", str(STORE_MIB))
    with serving(work, "--bundle", str(work / "bundle"), *limits) as client:
        yield client


@pytest.fixture(params=FACES)
def real(request: pytest.FixtureRequest, narrow: httpx.Client) -> Iterator[Client]:
    with client_of(request.param, str(narrow.base_url)) as client:
        yield client


@pytest.fixture
def mine(real: Client) -> Iterator[Collection]:
    collection = real.create_collection(f"c{secrets.token_hex(4)}")
    yield collection
    collection.drop()


def photograph(number: int, size: int = 400_000) -> bytes:
    """Of about that many bytes: noise, which nothing makes smaller."""
    side = round((size / 3) ** 0.5)
    pixels = np.random.default_rng(number).integers(0, 256, (side, side, 3), np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "BMP")
    return out.getvalue()


def test_photographs_that_overrun_the_uploads(real: Client, mine: Collection) -> None:
    """Twice, by one client: the second time each is there already."""
    photographs = [photograph(number) for number in range(16)]
    assert all(len(one) > INLINE_LIMIT for one in photographs)
    assert sum(map(len, photographs)) > STORE_MIB << 20
    for status in ("added", "exists"):
        done = mine.add(photographs)
        assert [(row.status, row.error) for row in done] == [(status, None)] * 16
    assert mine.size() == 16


def test_one_that_fails_in_every_way(real: Client, mine: Collection, tmp_path: Path) -> None:
    """Each is told in its place, and keeps nobody out."""
    small = iter([photograph(number, 3_000) for number in range(100, 120)])
    odd = tmp_path / os.fsdecode(b"caf\xe9.bmp")
    odd.write_bytes(next(small))
    deep: list[Any] = []
    for _ in range(500):
        deep = [deep]
    given: list[tuple[Any, str | type | None]] = [
        (next(small), None),
        (b"no picture" * 50_000, "unreadable_image"),
        (odd, None),
        (NewImage(next(small), metadata={"a": {"b": 1}}), "invalid_value"),
        (NewImage(next(small), metadata={"n": np.int64(3), "x": np.float32(0.5)}), None),
        (NewImage(next(small), metadata={"when": np.datetime64("2024-01-01")}), UnusableMetadata),
        (NewImage(next(small), metadata={"n": 10**5000}), UnusableMetadata),
        (NewImage(next(small), metadata={"n": float("nan")}), UnusableMetadata),
        (NewImage(next(small), metadata={"n": deep}), "invalid_value"),
        (NewImage(next(small), key="\udcff"), "invalid_value"),
        (NewImage(next(small), key="k" * 300), "invalid_value"),
        (photograph(1, (BODY_MIB << 20) + 9_000), "body_too_large"),
        (photograph(2, (BODY_MIB << 20) - 99_000), None),
        (photograph(3, BATCH_BYTES + 9_000), "body_too_large"),
        (next(small), None),
    ]
    done = mine.add(image for image, _ in given)
    for row, (_, wrong) in zip(done, given, strict=True):
        error = row.error
        found = error.code if isinstance(error, ServerError) else type(error) if error else None
        assert (row.status, found) == ("failed" if wrong else "added", wrong)
    assert mine.size() == sum(wrong is None for _, wrong in given)
    listed = {image.key: image.metadata for image in mine.images()}
    assert "caf\N{REPLACEMENT CHARACTER}.bmp" in listed
    assert {"n": 3, "x": 0.5} in listed.values()


def test_what_is_no_picture_is_told_as_such_whatever_its_size(real: Client) -> None:
    heic = b"\0\0\0\x18ftypheic"
    for data in (heic, heic.ljust(INLINE_LIMIT + 1, b"\0")):
        with pytest.raises(InvalidRequest, match="HEIC") as refused:
            real.chat([{"role": "user", "content": [data, "what is this?"]}])
        assert refused.value.code == "unreadable_image"


def test_a_collection_that_is_not_there_is_no_image_s_failure(real: Client) -> None:
    with pytest.raises(NotFound):
        real.collection("nowhere").add([photograph(number, 3_000) for number in range(2)])


def test_a_picture_that_was_deleted_is_left_out(real: Client, mine: Collection) -> None:
    first, second, third = (
        row.image for row in mine.add(photograph(number, 3_000) for number in range(3))
    )
    assert first is not None
    assert second is not None
    assert third is not None
    talk = real.conversation(max_tokens=4, ignore_eos=True)
    talk.send(first)
    talk.send("and this?", second, third)
    for gone in (first, second):
        mine.delete(gone)
    assert talk.send("what is it?").usage.images_in == 1
    assert [(one.turn, one.part["image"]["id"]) for one in talk.left_out] == [
        (0, first.id),
        (1, second.id),
    ]
    for _ in talk.stream("and now?"):
        pass
    assert len(talk.left_out) == 2
    assert talk.turns == 4
    with pytest.raises(NotFound) as now:
        talk.send("this one?", first)
    assert now.value.code == "image_not_found"
    assert talk.turns == 4
