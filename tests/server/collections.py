"""Helpers for tests of collections that change."""

import base64
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from fromage_server.settings import Settings
from tests.server.local import local_server
from tests.server.pictures import encoded, picture

Json = dict[str, Any]


def data_uri(number: int) -> Json:
    data = base64.b64encode(encoded(picture(number))).decode()
    return {"image_url": {"url": f"data:image/png;base64,{data}"}}


def add(client: httpx.Client, name: str, *images: Json) -> Json:
    answer = client.post(f"/v1/collections/{name}/images", json={"images": list(images)})
    assert answer.status_code == 200, answer.text
    found: Json = answer.json()
    return found


def add_numbers(client: httpx.Client, name: str, numbers: range) -> list[str]:
    images = [data_uri(n) | {"key": f"{n}", "metadata": {"n": n}} for n in numbers]
    return [one["image"]["id"] for one in add(client, name, *images)["images"]]


def listed(client: httpx.Client, name: str, limit: int = 200) -> list[Json]:
    images: list[Json] = []
    after: Json = {}
    while True:
        answer = client.get(f"/v1/collections/{name}/images", params={"limit": limit, **after})
        assert answer.status_code == 200, answer.text
        images += answer.json()["images"]
        if answer.json()["next"] is None:
            assert answer.json()["total"] == len(images)
            return images
        after = {"after": answer.json()["next"]}


def retrieved(client: httpx.Client, name: str, **options: Any) -> list[str]:
    body = {"prompt": "a", "k": 50, "collection": name, **options}
    answer = client.post("/v1/retrieve", json=body)
    assert answer.status_code == 200, answer.text
    return [image["key"] for image in answer.json()["images"]]


def card(client: httpx.Client, name: str) -> Json | None:
    cards = client.get("/v1/collections").json()["collections"]
    return next((card for card in cards if card["name"] == name), None)


def send(client: httpx.Client, number: int, name: str = "mine") -> str:
    (one,) = add(client, name, data_uri(number) | {"key": f"{number}"})["images"]
    return str(one["image"]["id"])


@contextmanager
def served(bundle: Path, cache: Path, **settings: Any) -> Iterator[httpx.Client]:
    with (
        local_server(
            Settings(bundle=str(bundle), device="cpu", cache_dir=cache, **settings)
        ) as local,
        httpx.Client(base_url=local.url, timeout=60) as client,
    ):
        yield client
