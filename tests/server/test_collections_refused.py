"""What the endpoints of collections refuse, and how they say so."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from fromage_index.errors import BadKey, BadMetadata, IndexFailure
from fromage_server.curator import refusal
from tests.server.collections import data_uri, served
from tests.server.pictures import encoded, picture
from tests.server.test_bad_requests import refused

Json = dict[str, Any]
BOX = "/v1/collections/box"
LONG = "-" + "9" * 5000
TOO_LONG = "is an integer of 5,000 digits, -9999999999999999999…; at most 4,300 can be read"


@pytest.fixture(scope="module")
def client(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """Of a server with a collection `box` that nothing is added to."""
    with served(tiny_bundle, tmp_path_factory.mktemp("cache")) as client:
        assert client.post("/v1/collections", json={"name": "box"}).status_code == 201
        yield client
        assert client.get("/v1/collections/box/images").json()["total"] == 0


@pytest.mark.parametrize(
    ("files", "data", "param", "told"),
    [
        ([], {"metadata": "{}"}, "file", "no file"),
        (["file"], {"metadata": "{"}, "metadata", "metadata is not JSON: Expecting"),
        (["file"], {"metadata": "[" * 100_000}, "metadata", "metadata is nested too deeply"),
        (["file"], {"metadata": '{"a": "\\ud800"}'}, "metadata", "metadata: metadata holds half"),
        (["file"] * 2, {"metadata": '[{}, {"a": []}, 5]'}, "metadata", "3 objects for 2 files"),
        (
            ["file"] * 2,
            {"metadata": "[{}, 5]"},
            "metadata.1",
            "metadata.1: input should be a valid dict",
        ),
        (["file"] * 2, {"metadata": f'[{{}}, {{"n": {LONG}}}]'}, "metadata.1.n", TOO_LONG),
        (
            ["file"],
            {"metadata": f'{{"a": ["{"x" * (1 << 20)}"]}}'},
            None,
            "no file has more than 1,048,576 bytes",
        ),
        (["file"] * 257, {}, None, "more than 256 files"),
        (["file"], {"metadata": "[{}, {}]"}, "metadata", "2 objects for 1 files"),
        (["file"], {"metadata": '{"a": {"b": 1}}'}, "metadata", "'a' is a dict"),
        (["file"], {"metadata": "3"}, "metadata", "dictionary"),
        (["file", "photo"], {}, "photo", "takes file and metadata"),
        (["file"], {"n": "1"}, "n", "takes file and metadata"),
    ],
)
def test_forms_that_are_refused(
    client: httpx.Client, files: list[str], data: Json, param: str | None, told: str
) -> None:
    parts = [(field, ("1.png", encoded(picture(1)))) for field in files]
    parts += [(field, (None, value)) for field, value in data.items()]  # type: ignore[misc]
    answer = client.post("/v1/collections/box/images", files=parts)
    assert answer.status_code in (400, 413), answer.text
    assert answer.json()["error"]["param"] == param
    assert told in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        ({"images": []}, "invalid_value", "images"),
        ({"images": [{}]}, "invalid_value", "images.0"),
        ({"images": [data_uri(1) | {"image": {"upload": "x"}}]}, "invalid_value", "images.0"),
        ({"images": [data_uri(1) | {"name": "x"}]}, "unknown_field", "images.0.name"),
        ({"images": [{"image": {"upload": 5}}]}, "invalid_value", "images.0.image.upload"),
        ({"images": [{"image": {"x": 5}}]}, "unknown_field", "images.0.image.x"),
        ({"images": [{"image": {"type": "image"}}]}, "unknown_field", "images.0.image.type"),
        ({"images": [data_uri(1), {"image": {}}]}, "invalid_value", "images.1.image"),
        ({"images": [{"image_url": {"url": 5}}]}, "invalid_value", "images.0.image_url.url"),
        ({"images": [{"image_url": {}}]}, "missing_field", "images.0.image_url.url"),
        ({"images": [data_uri(1) | {"key": ""}]}, "invalid_value", "images.0.key"),
        ({"images": [data_uri(1) | {"key": "\ud800"}]}, "invalid_value", "images.0.key"),
        (
            {"images": [data_uri(1) | {"metadata": {"a": [[1]]}}]},
            "invalid_value",
            "images.0.metadata",
        ),
        (
            {"images": [data_uri(1) | {"metadata": {"a": "x" * 70_000}}]},
            "invalid_value",
            "images.0.metadata",
        ),
        ({"images": [data_uri(1)] * 257}, "invalid_value", "images"),
        ({"pictures": []}, "missing_field", "images"),
    ],
)
def test_bodies_that_are_refused(client: httpx.Client, body: Json, code: str, param: str) -> None:
    answer = client.post(
        "/v1/collections/box/images",
        content=json.dumps(body),
        headers={"content-type": "application/json"},
    )
    assert refused(answer, 400, code)["param"] == param


@pytest.mark.parametrize(
    ("method", "path", "body", "param"),
    [
        ("POST", f"{BOX}/images", '{"images": [{"metadata": {"a": LONG}}]}', "images.0.metadata.a"),
        ("PATCH", f"{BOX}/images/x", '{"metadata": {"a": [1, LONG]}}', "metadata.a.1"),
        ("POST", "/v1/retrieve", '{"prompt": "a", "filter": {"n": {"gte": LONG}}}', "filter.n.gte"),
        ("POST", "/v1/chat", '{"max_tokens": LONG}', "max_tokens"),
    ],
)  # fmt: skip
def test_an_integer_that_is_too_long(
    client: httpx.Client, method: str, path: str, body: str, param: str
) -> None:
    content, headers = body.replace("LONG", LONG), {"content-type": "application/json"}
    error = refused(
        client.request(method, path, content=content, headers=headers), 400, "invalid_value"
    )
    assert error["param"] == param
    assert error["message"] == f"{param} {TOO_LONG}"


def test_a_file_s_name_that_is_too_long(client: httpx.Client) -> None:
    for path in ("/v1/collections/box/images", "/v1/uploads"):
        answer = client.post(path, files={"file": ("n" * 5000, encoded(picture(63)))})
        error = refused(answer, 400, "invalid_value")
        assert error["param"] == "file"
        assert "file has a header of more than 4,224 bytes" in error["message"]
        assert "filename=" in error["message"]
        assert "shorter name" in error["message"]
        assert len(error["message"]) < 300


@pytest.mark.parametrize("name", ["", ".hidden", "a/b", "../up", "x" * 65, "ä", "a b"])
def test_names_that_are_refused(client: httpx.Client, name: str) -> None:
    answer = client.post("/v1/collections", json={"name": name})
    assert refused(answer, 400, "invalid_value")["param"] == "name"


@pytest.mark.parametrize("error", [BadKey("no text"), BadMetadata("no object")])
def test_what_the_collection_itself_refuses(error: IndexFailure) -> None:
    """Bodies are checked before; should one come through, it is told as what it is."""
    told = refusal(error, param="images.3")
    assert (told.kind.status, told.code, told.param) == (400, "invalid_value", "images.3")


def test_what_bodies_are_taken(client: httpx.Client) -> None:
    url = "/v1/collections/box/images"
    error = refused(client.post(url, content=b"x"), 415, "unsupported_media_type")
    assert "application/json or multipart/form-data" in error["message"]
    assert (
        "not JSON"
        in refused(
            client.post(url, content=b"{", headers={"content-type": "application/json"}),
            400,
            "invalid_json",
        )["message"]
    )
    patch = client.patch(f"{url}/x", content=b"{}", headers={"content-type": "text/plain"})
    refused(patch, 415, "unsupported_media_type")
    large = {"images": [{"image_url": {"url": "x" * (33 << 20)}}]}
    refused(client.post(url, json=large), 413, "body_too_large")


def test_a_page_of_another_site_sends_no_forms(client: httpx.Client) -> None:
    """A browser would send it without asking the server first."""
    form = {"file": ("1.png", encoded(picture(60)))}
    for path in ("/v1/collections/box/images", "/v1/uploads"):
        answer = client.post(path, files=form, headers={"sec-fetch-site": "cross-site"})
        refused(answer, 403, "cross_site")
    own = client.post("/v1/uploads", files=form, headers={"sec-fetch-site": "same-origin"})
    assert own.status_code == 200


def test_a_file_s_name_that_is_no_utf_8(client: httpx.Client) -> None:
    """Half of a surrogate pair, written as bytes: it is taken for what a key can be."""
    assert client.post("/v1/collections", json={"name": "names"}).status_code == 201
    part = b'content-disposition: form-data; name="file"; filename="\xed\xa0\x80.png"'
    body = b"--X\r\n" + part + b"\r\n\r\n" + encoded(picture(62)) + b"\r\n--X--\r\n"
    headers = {"content-type": "multipart/form-data; boundary=X"}
    answer = client.post("/v1/collections/names/images", content=body, headers=headers)
    (row,) = answer.json()["images"]
    assert row["image"]["key"] == "\xed\xa0\x80.png"
    assert client.delete("/v1/collections/names").status_code == 200


@pytest.mark.parametrize("charset", ["unicode_escape", "utf-7", "undefined", "idna", "nope"])
def test_forms_in_another_charset(client: httpx.Client, charset: str) -> None:
    """With some of them a file's name could hold what nothing can write down again."""
    part = b'content-disposition: form-data; name="file"; filename="\\ud800.png"'
    body = b"--X\r\n" + part + b"\r\n\r\n" + encoded(picture(61)) + b"\r\n--X--\r\n"
    headers = {"content-type": f"multipart/form-data; boundary=X; charset={charset}"}
    for path in ("/v1/collections/box/images", "/v1/uploads"):
        answer = client.post(path, content=body, headers=headers)
        assert refused(answer, 400, "invalid_value")["param"] == "content-type"
    headers["content-type"] = "multipart/form-data; boundary=X; charset=UTF-8"
    assert client.post("/v1/uploads", content=body, headers=headers).status_code == 200
