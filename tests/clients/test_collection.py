"""What is asked about a collection: of both clients."""

import os
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
    NotFound,
    Picture,
    TransportFailed,
    UnexpectedAnswer,
    UnreadableFile,
    UnusableMetadata,
    UnusablePicture,
    Upload,
)
from fromage_client.additions import BATCH, BATCH_BYTES
from fromage_client.pictures import data_url
from tests.clients.scripted import Answer, ScriptedServer, answer, error, image

IMAGES = "/v1/collections/mine/images"


def added(*rows: dict[str, Any]) -> Answer:
    return answer({"collection": "mine", "images": rows, "size": 9})


def success(id: str = "a1") -> dict[str, Any]:
    return {"status": "added", "image": image(id, score=None)}


def upload(id: str) -> Answer:
    return answer({"id": id, "width": 1, "height": 1, "expires_at": 1 << 40})


def refusal(status: int, code: str, param: str | None, type: str = "invalid_request") -> Answer:
    told = {"type": f"{type}_error", "code": code, "message": "no", "param": param}
    return answer({"error": told}, status=status)


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
    scripted.script["/v1/uploads"] = [upload("large")]
    mine = client.collection("mine")
    forms: list[Any] = [path, str(path), Picture(path), png, Upload("u", 1, 1, 0)]
    forms += [NewImage(path, key="k", metadata={"a": 1}), png + b"\0" * BATCH_BYTES]
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
    scripted.script[IMAGES] = [gone, added(success()), gone]
    scripted.script["/v1/uploads"] = [upload(id) for id in ("one", "two", "three", "four")]
    large = png + b"\0" * BATCH_BYTES
    lost, sent, never = client.collection("mine").add([tmp_path / "nowhere.png", large, large])
    assert (lost.status, sent.status) == ("failed", "added")
    rows = [asked.json["images"] for asked in scripted.asked_for(IMAGES)]
    assert rows == [[{"image": {"upload": id}}] for id in ("one", "two", "three", "four")]
    # What is dropped twice is told, and what the caller uploaded is not to be had again.
    for row in (never, *client.collection("mine").add(Upload("mine", 1, 1, 0))):
        assert isinstance(row.error, NotFound)
        assert row.error.code == "upload_not_found"
    assert len(scripted.asked_for("/v1/uploads")) == 4


def test_batches_are_bounded_in_bytes(scripted: ScriptedServer, client: Client) -> None:
    half = BATCH_BYTES // 2
    sizes = [half - 9, half, 10, BATCH_BYTES, 1]
    scripted.script[IMAGES] = [added(*[success()] * count) for count in (2, 1, 1, 1)]
    done = client.collection("mine").add([b"GIF8".ljust(size, b"0") for size in sizes])
    assert [row.status for row in done] == ["added"] * len(sizes)
    counts = [len(asked.json["images"]) for asked in scripted.asked]
    assert counts == [2, 1, 1, 1]


def test_a_request_that_is_refused_for_one_image_goes_out_without_it(
    scripted: ScriptedServer, client: Client
) -> None:
    scripted.script[IMAGES] = [
        refusal(400, "invalid_value", "images.1.metadata.a"),
        refusal(400, "invalid_value", "images.0.key"),
        added(success("c")),
        error(403, "permission_error"),
    ]
    mine = client.collection("mine")
    first, second, third = mine.add([b"GIF8a", b"GIF8b", b"GIF8c"])
    assert (first.status, second.status) == ("failed", "failed")
    assert isinstance(first.error, InvalidRequest)
    assert isinstance(second.error, InvalidRequest)
    assert (first.error.param, second.error.param) == ("images.0.key", "images.1.metadata.a")
    assert third.image is not None
    assert third.image.id == "c"
    assert [len(asked.json["images"]) for asked in scripted.asked] == [3, 2, 1]
    with pytest.raises(Forbidden):
        mine.add([b"GIF8a", b"GIF8b"])


def test_a_request_that_is_too_long_goes_in_halves(
    scripted: ScriptedServer, client: Client
) -> None:
    """What is too long by itself is sent as its own bytes, at the last."""
    too_long = refusal(413, "body_too_large", None)
    scripted.script[IMAGES] = [too_long, added(success("a")), too_long]
    scripted.script[IMAGES] += [too_long, added(success("b")), too_long]
    scripted.script["/v1/uploads"] = [upload("one"), too_long]
    done = client.collection("mine").add([b"GIF8a", b"GIF8b", b"GIF8c"])
    assert [row.image and row.image.id for row in done] == ["a", "b", None]
    assert isinstance(done[2].error, InvalidRequest)
    assert done[2].error.code == "body_too_large"
    rows = [len(asked.json["images"]) for asked in scripted.asked_for(IMAGES)]
    assert rows == [3, 1, 2, 1, 1, 1]


def test_values_that_json_has_no_word_for(scripted: ScriptedServer, client: Client) -> None:
    given = {
        "n": np.int64(3),
        "x": np.float32(0.5),
        "yes": np.bool_(True),
        "all": np.array([1, 2]),
        "pair": (1, "a"),
    }
    scripted.script[IMAGES] = [added(success("a"), success("b"))]
    scripted.script[f"{IMAGES}/a"] = [answer({"image": image("a")})]
    looped: list[Any] = []
    looped.append(looped)
    bad: list[Any] = [{1, 2}, object(), float("nan"), 10**5000, looped, np.datetime64("2024-01-01")]
    mine = client.collection("mine")
    done = mine.add(
        [
            NewImage(b"GIF8a", metadata=given),
            *(NewImage(b"GIF8", metadata={"a": value}) for value in bad),
            NewImage(b"GIF8", key=Path("x")),  # type: ignore[arg-type]
            b"GIF8b",
        ]
    )
    assert [row.status for row in done] == ["added", *["failed"] * (len(bad) + 1), "added"]
    assert {type(row.error) for row in done[1:-1]} == {UnusableMetadata}
    assert "key: a PosixPath cannot be written" in str(done[-2].error)
    plain = {"n": 3, "x": 0.5, "yes": True, "all": [1, 2], "pair": [1, "a"]}
    assert [row.get("metadata") for row in scripted.asked[0].json["images"]] == [plain, None]
    mine.update("a", given)
    assert scripted.asked[1].json == {"metadata": plain}
    with pytest.raises(UnusableMetadata, match="metadata: a set"):
        mine.update("a", {"a": {1}})


def test_a_file_s_name_need_not_be_text(
    scripted: ScriptedServer, client: Client, png: bytes, tmp_path: Path
) -> None:
    """Its key is what can be printed of it, as on the command line."""
    path = tmp_path / os.fsdecode(b"caf\xe9.png")
    path.write_bytes(png)
    scripted.script[IMAGES] = [added(success())]
    client.collection("mine").add(path)
    assert scripted.asked[0].json["images"][0]["key"] == "caf\N{REPLACEMENT CHARACTER}.png"


def test_an_image_of_a_collection_is_copied(scripted: ScriptedServer, client: Client) -> None:
    scripted.script[IMAGES] = [added(success())]
    [row] = client.collection("mine").add(ImageRef.from_json(image("x"), scripted.url))
    assert scripted.asked[0].json["images"] == [{"image": {"collection": "demo", "id": "x"}}]
    assert row.error is None
