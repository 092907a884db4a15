"""Whole collections that come and go while they are used: by several clients, and by commands."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from fromage_index.collection import Collection
from fromage_server.cli import main
from fromage_server.settings import Settings
from tests.server.collections import card, data_uri, listed, retrieved, send, served
from tests.server.local import local_server
from tests.server.test_bad_requests import refused

BOX = {"name": "box"}
IMAGES = "/v1/collections/box/images"
Seen = set[tuple[int, str | None]]


def told(answer: httpx.Response) -> tuple[int, str | None]:
    return answer.status_code, answer.json().get("error", {}).get("code")


def together(url: str, works: list[Callable[[httpx.Client], Seen]]) -> Seen:
    """What all of them saw."""

    def run(work: Callable[[httpx.Client], Seen]) -> Seen:
        with httpx.Client(base_url=url, timeout=60) as client:
            return work(client)

    with ThreadPoolExecutor(len(works)) as pool:
        return set[tuple[int, str | None]]().union(*pool.map(run, works))


def made_and_dropped(client: httpx.Client) -> Seen:
    seen: Seen = set()
    for _ in range(40):
        seen.add(told(client.post("/v1/collections", json=BOX)))
        seen.add(told(client.delete("/v1/collections/box")))
    return seen


def test_made_and_dropped_by_many_at_once(tiny_bundle: Path, tmp_path: Path) -> None:
    settings = Settings(bundle=str(tiny_bundle), device="cpu", cache_dir=tmp_path)
    with local_server(settings) as local:
        seen = together(local.url, [made_and_dropped] * 6)
    assert {(201, None), (200, None)} <= seen
    allowed = {(409, "collection_exists"), (503, "collection_busy"), (404, "collection_not_found")}
    assert seen - allowed == {(201, None), (200, None)}


def test_filled_while_it_is_made_and_dropped(tiny_bundle: Path, tmp_path: Path) -> None:
    """Nothing is stopping: there is another collection of the same name, or none."""
    over = threading.Event()

    def comes_and_goes(client: httpx.Client) -> Seen:
        made_and_dropped(client)
        made_and_dropped(client)
        over.set()
        return set()

    def filled(client: httpx.Client) -> Seen:
        seen: Seen = set()
        while not over.is_set():
            seen.add(told(client.post(IMAGES, json={"images": [data_uri(1)]})))
        return seen

    settings = Settings(bundle=str(tiny_bundle), device="cpu", cache_dir=tmp_path)
    with local_server(settings) as local:
        seen = together(local.url, [comes_and_goes, *[filled] * 4])
    assert (404, "collection_not_found") in seen
    assert seen <= {(200, None), (404, "collection_not_found")}


def test_dropped_and_made_again_while_a_picture_is_embedded(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was to be added belongs to the one that was dropped."""
    begun, gate = threading.Event(), threading.Event()
    settings = Settings(bundle=str(tiny_bundle), device="cpu", cache_dir=tmp_path)
    with local_server(settings) as local, httpx.Client(base_url=local.url, timeout=60) as client:
        embedder = local.service.curator._ingest._embedder
        real = embedder.embed

        def embed(prepared: Sequence[Any]) -> Any:
            begun.set()
            gate.wait(30)
            return real(prepared)

        monkeypatch.setattr(embedder, "embed", embed)
        assert client.post("/v1/collections", json=BOX).status_code == 201
        with ThreadPoolExecutor(1) as pool:
            adding = pool.submit(client.post, IMAGES, json={"images": [data_uri(1)]})
            assert begun.wait(30)
            with httpx.Client(base_url=local.url, timeout=60) as other:
                assert other.delete("/v1/collections/box").status_code == 200
                assert other.post("/v1/collections", json=BOX).status_code == 201
            gate.set()
            told = refused(adding.result(), 404, "collection_not_found")["message"]
        assert told == "the collection 'box' was dropped meanwhile"
        assert listed(client, "box") == []


def test_dropped_by_a_command_it_is_gone(tiny_bundle: Path, tmp_path: Path) -> None:
    made = tmp_path / "made"
    with served(tiny_bundle, tmp_path, collections_dir=made) as client:
        for name in ("box", "other"):
            assert client.post("/v1/collections", json={"name": name}).status_code == 201
        id = send(client, 1, "box")
        assert main(["index", "drop", str(made / "box"), "--yes"]) == 0
        assert card(client, "box") is None
        other = card(client, "other")
        assert other is not None
        assert other["default"]
        for answer in (
            client.post(IMAGES, json={"images": [data_uri(2)]}),
            client.get(IMAGES),
            client.patch(f"{IMAGES}/{id}", json={"metadata": {}}),
            client.delete(f"{IMAGES}/{id}"),
            client.get(f"/v1/images/box/{id}"),
            client.delete("/v1/collections/box"),
            client.post("/v1/retrieve", json={"prompt": "a", "collection": "box"}),
        ):
            assert "there are: other" in refused(answer, 404, "collection_not_found")["message"]
        assert retrieved(client, "other") == []
        # Its name is free, and what is made under it is another.
        assert client.post("/v1/collections", json=BOX).status_code == 201
        assert listed(client, "box") == []
        assert send(client, 1, "box") == id
        assert Collection.open(made / "box").size == 1


def test_made_again_by_a_command_it_is_served_again(tiny_bundle: Path, tmp_path: Path) -> None:
    box = tmp_path / "made" / "box"
    with served(tiny_bundle, tmp_path, collections_dir=box.parent) as client:
        assert client.post("/v1/collections", json=BOX).status_code == 201
        send(client, 1, "box")
        assert main(["index", "drop", str(box), "--yes"]) == 0
        assert main(["index", "create", str(box), "--bundle", str(tiny_bundle)]) == 0
        assert listed(client, "box") == []
        send(client, 2, "box")
        assert retrieved(client, "box") == ["2"]


def test_what_was_given_at_the_start_keeps_its_name(tiny_bundle: Path, tmp_path: Path) -> None:
    """Its disk may come back."""
    given = tmp_path / "given"
    assert main(["index", "create", str(given), "--bundle", str(tiny_bundle)]) == 0
    with served(tiny_bundle, tmp_path, collections={"box": given}) as client:
        away = given.rename(tmp_path / "away")
        refused(client.get(IMAGES), 404, "collection_not_found")
        refused(client.post("/v1/collections", json=BOX), 409, "collection_exists")
        away.rename(given)
        assert send(client, 1, "box")


@pytest.mark.parametrize("name", ["a b", "-x", "x" * 65])
def test_a_directory_that_no_address_can_name_is_not_served(
    tiny_bundle: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    made = tmp_path / "made"
    assert main(["index", "create", str(made / "fine"), "--bundle", str(tiny_bundle)]) == 0
    (made / "fine").rename(made / name)
    with served(tiny_bundle, tmp_path, collections_dir=made) as client:
        assert client.get("/v1/collections").json()["collections"] == []
    assert f"collection {name!r}" in caplog.text
    assert "1 to 64 letters" in caplog.text
    with served(tiny_bundle, tmp_path, collections={"fine": made / name}) as client:
        assert card(client, "fine") is not None
