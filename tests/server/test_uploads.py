"""The upload store, and the endpoint before it."""

import httpx
import pytest

from fromage_server.errors import ApiError
from fromage_server.uploads import UploadStore
from tests.server.pictures import encoded, picture


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_an_upload_expires() -> None:
    clock = Clock()
    store = UploadStore(ttl_s=10, max_bytes=100, clock=clock)
    kept = store.add(b"x" * 10, 3, 2)
    assert kept.expires_at == 1010
    clock.now = 1009.9
    assert store.get(kept.id) == kept
    clock.now = 1010
    assert store.get(kept.id) is None


def test_the_oldest_go_when_room_is_needed() -> None:
    store = UploadStore(ttl_s=10, max_bytes=25, clock=Clock())
    first, second, third = (store.add(b"x" * 10, 1, 1) for _ in range(3))
    assert store.get(first.id) is None
    assert store.get(second.id) == second
    assert store.get(third.id) == third
    with pytest.raises(ApiError) as raised:
        store.add(b"x" * 26, 1, 1)
    assert raised.value.kind.status == 413


def test_an_image_s_own_bytes(server: httpx.Client) -> None:
    response = server.post(
        "/v1/uploads", content=encoded(picture(0)), headers={"content-type": "image/png"}
    )
    assert response.status_code == 200, response.text
    answer = response.json()
    assert (answer["width"], answer["height"]) == (60, 40)
    assert set(answer) == {"id", "width", "height", "expires_at"}


def test_a_form(server: httpx.Client) -> None:
    response = server.post("/v1/uploads", files={"file": ("a.jpg", encoded(picture(1), "JPEG"))})
    assert response.status_code == 200, response.text
    assert response.json()["height"] == 40


@pytest.mark.parametrize(
    ("files", "told"),
    [
        ({"a": b"x", "b": b"y"}, "2 files"),
        ({"file": b"this is text"}, "not an image"),
        ({"file": b""}, "empty"),
        ({"file": encoded(picture(0))[:100]}, "cut short"),
        ({"file": b"<svg xmlns='http://www.w3.org/2000/svg'/>"}, "PNG"),
    ],
)
def test_what_is_refused(server: httpx.Client, files: dict[str, bytes], told: str) -> None:
    response = server.post(
        "/v1/uploads", files={name: (name, data) for name, data in files.items()}
    )
    assert response.status_code == 400, response.text
    assert told in response.json()["error"]["message"]
