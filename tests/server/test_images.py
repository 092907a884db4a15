"""GET /v1/images: the image, its sizes, its headers, and nothing outside the collection."""

import io
from urllib.parse import quote

import httpx
import pytest
from PIL import Image

from tests.server.pictures import encoded, picture


@pytest.fixture(scope="module")
def url(server: httpx.Client) -> str:
    body = {"prompt": "a", "k": 1, "filter": {"number": 3}}
    (image,) = server.post("/v1/retrieve", json=body).json()["images"]
    assert image["key"] == "pic 03.png"
    return str(image["url"])


def test_the_image_as_it_was_indexed(server: httpx.Client, url: str) -> None:
    response = server.get(url)
    assert response.content == encoded(picture(3))
    assert response.headers["content-type"] == "image/png"
    assert response.headers["x-content-type-options"] == "nosniff"
    assert "max-age" in response.headers["cache-control"]


def test_a_client_s_copy_is_still_good(server: httpx.Client, url: str) -> None:
    etag = server.get(url).headers["etag"]
    for known in (etag, f'"other", W/{etag}'):
        again = server.get(url, headers={"if-none-match": known})
        assert (again.status_code, again.content) == (304, b"")
    assert server.get(url, headers={"if-none-match": '"other"'}).status_code == 200


def test_head(server: httpx.Client, url: str) -> None:
    response = server.head(url)
    assert (response.status_code, response.content) == (200, b"")
    assert response.headers["etag"] == server.get(url).headers["etag"]


@pytest.mark.parametrize("size", [1, 32, 500, 4096])
def test_a_small_picture_is_not_enlarged(server: httpx.Client, url: str, size: int) -> None:
    response = server.get(url, params={"size": size})
    assert response.headers["content-type"] == "image/jpeg"
    assert Image.open(io.BytesIO(response.content)).size == (60, 40)


@pytest.mark.parametrize("size", ["0", "4097", "big", "-1"])
def test_a_size_out_of_range(server: httpx.Client, url: str, size: str) -> None:
    response = server.get(url, params={"size": size})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "size"


@pytest.mark.parametrize(
    "id",
    [
        "unknown",
        "../../../../etc/passwd",
        "pic 03.png",
        "..\\..\\secret",
        "a/b/c",
        "%00",
        "é\u2028🐱",
        "x" * 5000,
        "' or 1=1 --",
    ],
)
def test_hostile_ids_are_not_found(server: httpx.Client, id: str) -> None:
    for collection in ("shelf", "nowhere"):
        response = server.get(f"/v1/images/{collection}/{quote(id, safe='')}")
        assert response.status_code == 404, response.text
        assert response.json()["error"]["code"] in ("image_not_found", "collection_not_found")
        assert len(response.content) < 1000


def test_a_path_outside_is_no_route(server: httpx.Client) -> None:
    request = httpx.Request("GET", str(server.base_url.join("/v1/images/../../etc/passwd")))
    assert server.send(request).status_code == 404
