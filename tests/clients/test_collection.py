"""What is asked about a collection: of both clients."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fromage_client import (
    Client,
    Forbidden,
    ImageRef,
    InvalidRequest,
    NewImage,
    Picture,
    TransportFailed,
    UnexpectedAnswer,
    UnreadableFile,
    UnusablePicture,
    Upload,
)
from fromage_client.additions import BATCH
from fromage_client.messages import INLINE_LIMIT
from fromage_client.pictures import data_url
from tests.clients.scripted import Answer, ScriptedServer, answer, error, image

IMAGES = "/v1/collections/mine/images"


def added(*rows: dict[str, Any]) -> Answer:
    return answer({"collection": "mine", "images": rows, "size": 9})


def success(id: str = "a1") -> dict[str, Any]:
    return {"status": "added", "image": image(id, score=None)}


def test_many_images_go_in_batches(scripted: ScriptedServer, client: Client) -> None:
    def pictures() -> Iterator[bytes]:
        for number in range(BATCH + 2):
            yield b"GIF8%03d" % number

    scripted.script[IMAGES] = [added(*[success()] * BATCH), added(success("x"), success("y"))]
    done = client.collection("mine").add(pictures(), metadata={"year": 2024})
    assert [row.status for row in done] == ["added"] * (BATCH + 2)
    assert done[-1].image is not None
    assert done[-1].image.address == f"{scripted.url}/v1/images/demo/y"
    first, second = (asked.json["images"] for asked in scripted.asked)
    assert (len(first), len(second)) == (BATCH, 2)
    assert second[1] == {
        "image_url": {"url": data_url(b"GIF8%03d" % (BATCH + 1))},
        "metadata": {"year": 2024},
    }


def test_one_image_in_every_form(
    scripted: ScriptedServer, client: Client, png: bytes, tmp_path: Path
) -> None:
    path = tmp_path / "my cat.png"
    path.write_bytes(png)
    scripted.script[IMAGES] = [added(success())]
    scripted.script["/v1/uploads"] = [
        answer({"id": "large", "width": 1, "height": 1, "expires_at": 1 << 40})
    ]
    mine = client.collection("mine")
    forms: list[Any] = [path, str(path), Picture(path), png, Upload("u", 1, 1, 0)]
    forms += [NewImage(path, key="k", metadata={"a": 1}), png + b"\0" * INLINE_LIMIT]
    for form in forms:
        mine.add(form, metadata={"b": 2})
    rows = [asked.json["images"][0] for asked in scripted.asked_for(IMAGES)]
    assert [row.get("key") for row in rows] == [*["my cat.png"] * 3, None, None, "k", None]
    assert [row["metadata"] for row in rows] == [*[{"b": 2}] * 5, {"a": 1}, {"b": 2}]
    assert rows[0]["image_url"] == rows[3]["image_url"]
    assert rows[4]["image"] == {"upload": "u"}
    assert rows[6]["image"] == {"upload": "large"}


def test_one_that_fails_is_told_with_its_reason(scripted: ScriptedServer, client: Client) -> None:
    reason = {"type": "invalid_request_error", "code": "unreadable_image"}
    failed = {"status": "failed", "error": {**reason, "message": "no image", "param": "images.1"}}
    exists = {**success(), "status": "exists"}
    scripted.script[IMAGES] = [added(exists, failed)]
    there, broken = client.collection("mine").add([b"GIF8", b"text"])
    assert (there.status, broken.status, broken.image) == ("exists", "failed", None)
    assert isinstance(broken.error, InvalidRequest)
    assert (broken.error.code, broken.error.param) == ("unreadable_image", "images.1")


def test_images_are_listed_page_by_page(scripted: ScriptedServer, client: Client) -> None:
    scripted.script[IMAGES] = [
        answer({"images": [image("a"), image("b")], "next": "b=", "total": 3}),
        answer({"images": [image("c")], "next": None, "total": 3}),
    ]
    listed = iter(client.collection("mine").images())
    assert next(listed).id == "a"
    assert [asked.path for asked in scripted.asked] == [f"{IMAGES}?limit=100"]
    assert [row.id for row in listed] == ["b", "c"]
    assert scripted.asked[1].path == f"{IMAGES}?limit=100&after=b%3D"


def test_the_other_requests(scripted: ScriptedServer, client: Client) -> None:
    paths = ("/v1/collections", "/v1/collections/a%2Fb", "/v1/collections/a%2Fb/images/x%3Fy")
    scripted.script |= {path: [answer({"image": image("x?y")})] for path in paths}
    scripted.script["/v1/collections/a%2Fb/images"] = [
        answer({"images": [], "next": None, "total": 7})
    ]
    made = client.create_collection("a/b")
    assert (made.name, made.size()) == ("a/b", 7)
    assert made.update("x?y", {"a": 1}).id == "x?y"
    made.delete("x?y")
    made.drop()
    said = [(asked.method, asked.path) for asked in scripted.asked]
    assert said == [
        ("POST", paths[0]),
        ("GET", "/v1/collections/a%2Fb/images?limit=1"),
        ("PATCH", paths[2]),
        ("DELETE", paths[2]),
        ("DELETE", paths[1]),
    ]
    assert scripted.asked[0].json == {"name": "a/b"}
    assert scripted.asked[2].json == {"metadata": {"a": 1}}


def test_the_only_one_fails_like_any_other(scripted: ScriptedServer, client: Client) -> None:
    """The server answers for a lone image with its error; that of the request is another."""
    reason = {"type": "invalid_request_error", "code": "unreadable_image", "message": "no image"}
    refused = answer({"error": {**reason, "param": "images.0"}}, status=400)
    scripted.script[IMAGES] = [refused, error(403, "permission_error")]
    [broken] = client.collection("mine").add(b"text")
    assert (broken.status, broken.image) == ("failed", None)
    assert isinstance(broken.error, InvalidRequest)
    with pytest.raises(Forbidden):
        client.collection("mine").add(b"text")


def test_what_cannot_be_read_keeps_nothing_else_out(
    scripted: ScriptedServer, client: Client, png: bytes, tmp_path: Path
) -> None:
    """It is told like what the server refuses, and in its place."""
    (tmp_path / "cat.png").write_bytes(png)
    (tmp_path / "folder").mkdir()
    scripted.script[IMAGES] = [added(success("a"), success("b"))]
    scripted.script["/gone.png"] = [Answer(status=404)]
    scripted.script["/hangs-up.png"] = [Answer(reset=True)]
    given: list[Any] = [
        tmp_path / "nowhere.png",
        png,
        str(tmp_path / "folder"),
        "a\0b.png",
        f"{scripted.url}/gone.png",
        tmp_path / "cat.png",
        np.zeros((2, 2, 5), np.uint8),
        f"{scripted.url}/hangs-up.png",
        "data:image/png;base64,###",
    ]
    done = client.collection("mine").add(given)
    assert [row.image.id if row.image else None for row in done] == [
        *(None, "a", None, None, None, "b"),
        *(None, None, None),
    ]
    assert [row.status for row in done if row.image is None] == ["failed"] * 7
    kinds = [type(row.error) for row in done if row.image is None]
    assert kinds[:3] == [UnreadableFile] * 3
    assert kinds[3:5] == [UnusablePicture] * 2
    assert issubclass(kinds[5], TransportFailed)
    assert kinds[6] is UnusablePicture
    assert "nowhere.png" in str(done[0].error)
    assert done[0].error is not None
    assert isinstance(done[0].error.__cause__, FileNotFoundError)
    (sent,) = scripted.asked_for(IMAGES)
    assert [row.get("key") for row in sent.json["images"]] == [None, "cat.png"]


def test_where_nothing_can_be_read_nothing_is_asked(
    scripted: ScriptedServer, client: Client, tmp_path: Path
) -> None:
    [lost] = client.collection("mine").add(tmp_path / "nowhere.png")
    assert (lost.status, type(lost.error)) == ("failed", UnreadableFile)
    assert len(client.collection("mine").add(tmp_path / f"{n}.png" for n in range(BATCH + 1))) == (
        BATCH + 1
    )
    assert scripted.asked == []


def test_the_only_one_that_was_sent_fails_as_the_request(
    scripted: ScriptedServer, client: Client, tmp_path: Path
) -> None:
    reason = {"type": "invalid_request_error", "code": "unreadable_image", "message": "no image"}
    refused = answer({"error": {**reason, "param": "images.0"}}, status=400)
    scripted.script[IMAGES] = [refused]
    lost, broken = client.collection("mine").add([tmp_path / "nowhere.png", b"text"])
    assert (type(lost.error), type(broken.error)) == (UnreadableFile, InvalidRequest)


def test_an_answer_about_other_images_is_none(scripted: ScriptedServer, client: Client) -> None:
    scripted.script[IMAGES] = [added(success())]
    with pytest.raises(UnexpectedAnswer):
        client.collection("mine").add([b"GIF8a", b"GIF8b"])


def test_an_upload_that_was_dropped_is_sent_again_with_the_rest(
    scripted: ScriptedServer, client: Client, png: bytes, tmp_path: Path
) -> None:
    reason = {"type": "not_found_error", "code": "upload_not_found", "message": "gone"}
    gone = answer({"error": {**reason, "param": "images.0.image.upload"}}, status=404)
    scripted.script[IMAGES] = [gone, added(success())]
    uploads = [
        answer({"id": id, "width": 1, "height": 1, "expires_at": 1 << 40}) for id in ("one", "two")
    ]
    scripted.script["/v1/uploads"] = uploads
    large = png + b"\0" * INLINE_LIMIT
    lost, sent = client.collection("mine").add([tmp_path / "nowhere.png", large])
    assert (lost.status, sent.status) == ("failed", "added")
    rows = [asked.json["images"] for asked in scripted.asked_for(IMAGES)]
    assert rows == [[{"image": {"upload": "one"}}], [{"image": {"upload": "two"}}]]


def test_an_image_of_a_collection_is_copied(scripted: ScriptedServer, client: Client) -> None:
    scripted.script[IMAGES] = [added(success())]
    [row] = client.collection("mine").add(ImageRef.from_json(image("x"), scripted.url))
    assert scripted.asked[0].json["images"] == [{"image": {"collection": "demo", "id": "x"}}]
    assert row.error is None
