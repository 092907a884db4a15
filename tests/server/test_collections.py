"""Collections that change: the contract of every endpoint, against a real server."""

import base64
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.server.collections import add, add_numbers, card, data_uri, listed, retrieved
from tests.server.pictures import encoded, picture, write_pictures
from tests.server.process import serving
from tests.server.sizes import PICTURES
from tests.server.test_bad_requests import refused

Json = dict[str, Any]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("live")
    write_pictures(path / "pictures", PICTURES)
    return path


@pytest.fixture(scope="module")
def client(tiny_bundle: Path, folder: Path) -> Iterator[httpx.Client]:
    images = f"box={folder / 'pictures'}"
    with serving(folder, "--bundle", str(tiny_bundle), "--images", images) as client:
        yield client


@pytest.fixture
def name(client: httpx.Client, request: pytest.FixtureRequest) -> str:
    """An empty collection of the test's own."""
    name = f"c{abs(hash(request.node.name)) % 10**9}"
    answer = client.post("/v1/collections", json={"name": name})
    assert answer.status_code == 201, answer.text
    return name


def test_a_collection_is_made_filled_searched_and_dropped(client: httpx.Client) -> None:
    made = client.post("/v1/collections", json={"name": "mine"})
    assert made.status_code == 201
    assert made.json() == card(client, "mine")
    assert (made.json()["size"], made.json()["default"]) == (0, False)
    assert (made.json()["writable"], made.json()["droppable"]) == (True, True)
    refused(client.post("/v1/collections", json={"name": "mine"}), 409, "collection_exists")
    assert retrieved(client, "mine") == []

    answer = add(client, "mine", data_uri(20) | {"key": "new", "metadata": {"year": 2024}})
    (one,) = answer["images"]
    assert (answer["collection"], answer["size"], one["status"]) == ("mine", 1, "added")
    image = one["image"]
    assert (image["key"], image["width"], image["height"]) == ("new", 60, 40)
    assert image["metadata"] == {"year": 2024}
    assert client.get(image["url"]).content == encoded(picture(20))
    assert retrieved(client, "mine") == ["new"]
    assert listed(client, "mine") == [image]

    dropped = client.delete("/v1/collections/mine")
    assert (dropped.status_code, dropped.json()) == (200, {"name": "mine", "deleted": True})
    assert card(client, "mine") is None
    refused(client.delete("/v1/collections/mine"), 404, "collection_not_found")
    refused(client.get("/v1/collections/mine/images"), 404, "collection_not_found")
    assert client.post("/v1/collections", json={"name": "mine"}).status_code == 201
    assert listed(client, "mine") == []
    client.delete("/v1/collections/mine")


def test_what_was_given_at_the_start_can_be_changed_but_not_dropped(client: httpx.Client) -> None:
    box = card(client, "box")
    assert box is not None
    assert (box["writable"], box["droppable"], box["default"]) == (True, False, True)
    refused(client.delete("/v1/collections/box"), 403, "not_droppable")
    (added,) = add(client, "box", data_uri(30) | {"key": "thirty"})["images"]
    assert "thirty" in retrieved(client, "box")
    # The folder's own pictures are known by content, too.
    (there,) = add(client, "box", data_uri(3))["images"]
    assert (there["status"], there["image"]["key"]) == ("exists", "pic 03.png")
    for id in (added["image"]["id"], there["image"]["id"]):
        assert client.delete(f"/v1/collections/box/images/{id}").status_code == 200
    assert {"thirty", "pic 03.png"}.isdisjoint(retrieved(client, "box"))
    # Once more: it comes from the request now, since the folder's row is gone.
    (again,) = add(client, "box", data_uri(3) | {"key": "three"})["images"]
    assert again["status"] == "added"
    assert client.get(again["image"]["url"]).content == encoded(picture(3))
    assert len(listed(client, "box")) == PICTURES


def test_the_same_picture_again_is_the_same_image(client: httpx.Client, name: str) -> None:
    first = add(client, name, data_uri(1) | {"key": "first"}, data_uri(1), data_uri(2))
    assert [one["status"] for one in first["images"]] == ["added", "exists", "added"]
    assert first["size"] == 2
    again = add(client, name, data_uri(1) | {"key": "other", "metadata": {"x": 1}})
    (one,) = again["images"]
    assert one == {"status": "exists", "image": first["images"][0]["image"]}
    # As another file it is another picture; removed and added again it has the id that it had.
    jpeg = base64.b64encode(encoded(picture(1), "JPEG")).decode()
    uri = {"image_url": {"url": f"data:image/jpeg;base64,{jpeg}"}}
    assert add(client, name, uri)["images"][0]["status"] == "added"
    id = one["image"]["id"]
    assert client.delete(f"/v1/collections/{name}/images/{id}").status_code == 200
    (back,) = add(client, name, data_uri(1))["images"]
    assert (back["status"], back["image"]["id"]) == ("added", id)


def test_many_at_once_one_of_them_bad(client: httpx.Client, name: str) -> None:
    bad = {"image_url": {"url": "data:image/png;base64,aGVsbG8="}}
    gone = {"image": {"upload": "up_nothing"}}
    answer = add(client, name, data_uri(1), bad, data_uri(2), gone)
    assert [one["status"] for one in answer["images"]] == ["added", "failed", "added", "failed"]
    assert answer["images"][1]["error"]["code"] == "unreadable_image"
    assert answer["images"][1]["error"]["param"] == "images.1.image_url.url"
    assert answer["images"][3]["error"]["code"] == "upload_not_found"
    assert answer["size"] == len(listed(client, name)) == 2
    one = client.post(f"/v1/collections/{name}/images", json={"images": [bad]})
    assert refused(one, 400, "unreadable_image")["param"] == "images.0.image_url.url"


def test_uploads_and_images_of_other_collections(client: httpx.Client, name: str) -> None:
    upload = client.post("/v1/uploads", files={"file": encoded(picture(7))}).json()
    (first,) = add(client, name, {"image": {"upload": upload["id"]}})["images"]
    assert first["image"]["key"] == first["image"]["id"]
    stored = next(image for image in listed(client, "box") if image["key"] == "pic 05.png")
    (copied,) = add(client, name, {"image": {"collection": "box", "id": stored["id"]}})["images"]
    assert client.get(copied["image"]["url"]).content == encoded(picture(5))


def test_a_form(client: httpx.Client, name: str) -> None:
    url = f"/v1/collections/{name}/images"
    files = [("file", (f"{n}.png", encoded(picture(n)), "image/png")) for n in (1, 2)]
    metadata = [{"n": 1, "tags": ["a", "b"]}, {"n": 2, "gone": None}]
    answer = client.post(url, files=files, data={"metadata": json.dumps(metadata)})
    assert answer.status_code == 200, answer.text
    images = [one["image"] for one in answer.json()["images"]]
    assert [image["key"] for image in images] == ["1.png", "2.png"]
    assert [image["metadata"] for image in images] == [metadata[0], {"n": 2}]
    third = {"file": ("3.png", encoded(picture(3)))}
    answer = client.post(url, files=third, data={"metadata": '{"n": 3}'})
    assert answer.json()["images"][0]["image"]["metadata"] == {"n": 3}
    assert retrieved(client, name, filter={"tags": "b"}) == ["1.png"]


def test_metadata_is_merged(client: httpx.Client, name: str) -> None:
    (id,) = add_numbers(client, name, range(1, 2))
    url = f"/v1/collections/{name}/images/{id}"
    answer = client.patch(url, json={"metadata": {"n": None, "place": "Lisbon", "tags": [1, "a"]}})
    assert answer.status_code == 200, answer.text
    expected = {"place": "Lisbon", "tags": [1, "a"]}
    assert answer.json()["image"]["metadata"] == expected
    assert listed(client, name)[0]["metadata"] == expected
    refused(client.patch(url, json={"metadata": {"a": {}}}), 400, "invalid_value")
    growing = {"metadata": {"long": "x" * 65_500}}
    refused(client.patch(url, json=growing), 400, "invalid_value")
    assert listed(client, name)[0]["metadata"] == expected


def test_unknown_images(client: httpx.Client, name: str) -> None:
    url = f"/v1/collections/{name}/images"
    for id in ("nobody", "a/b", "%2e%2e"):
        refused(client.delete(f"{url}/{id}"), 404, "image_not_found")
        refused(client.patch(f"{url}/{id}", json={"metadata": {}}), 404, "image_not_found")
    (id,) = add_numbers(client, name, range(1, 2))
    assert client.delete(f"{url}/{id}").json() == {"id": id, "deleted": True}
    refused(client.delete(f"{url}/{id}"), 404, "image_not_found")
    refused(client.get(f"/v1/images/{name}/{id}"), 404, "image_not_found")
    refused(client.get(f"/v1/images/{name}/{id}?size=128"), 404, "image_not_found")


def test_pages_while_pictures_come_and_go(client: httpx.Client, name: str) -> None:
    url = f"/v1/collections/{name}/images"
    ids = add_numbers(client, name, range(12))
    newest_first = ids[::-1]
    first = client.get(url, params={"limit": 5}).json()
    assert [image["id"] for image in first["images"]] == newest_first[:5]
    assert first["total"] == 12
    add_numbers(client, name, range(12, 15))
    # The page's last, one before and one after it go.
    for id in (newest_first[4], newest_first[0], newest_first[6]):
        client.delete(f"{url}/{id}")
    second = client.get(url, params={"limit": 5, "after": first["next"]}).json()
    assert [image["id"] for image in second["images"]] == [newest_first[5], *newest_first[7:11]]
    last = client.get(url, params={"limit": 5, "after": second["next"]}).json()
    assert ([image["id"] for image in last["images"]], last["next"]) == (newest_first[11:], None)
    for wrong in ({"limit": 0}, {"limit": 201}, {"after": "x"}, {"after": "-1"}):
        assert client.get(url, params=wrong).status_code == 400


def test_retrieval_conditions_hold_at_once(client: httpx.Client, name: str) -> None:
    ids = add_numbers(client, name, range(6))
    url = f"/v1/collections/{name}/images"
    assert sorted(retrieved(client, name)) == list("012345")
    assert sorted(retrieved(client, name, filter={"n": {"gte": 4}})) == ["4", "5"]
    client.patch(f"{url}/{ids[0]}", json={"metadata": {"n": 7, "odd": True}})
    assert sorted(retrieved(client, name, filter={"n": {"gte": 4}})) == ["0", "4", "5"]
    assert retrieved(client, name, filter={"odd": True}) == ["0"]
    client.delete(f"{url}/{ids[4]}")
    assert sorted(retrieved(client, name, filter={"n": {"gte": 4}})) == ["0", "5"]
    assert sorted(retrieved(client, name, exclude=[ids[5]])) == ["0", "1", "2", "3"]
    best = client.post("/v1/retrieve", json={"prompt": "a", "collection": name, "k": 1}).json()
    floor = best["images"][0]["score"]
    assert retrieved(client, name, min_score=floor) == [best["images"][0]["key"]]
    # The last image with a field goes, and the field with it.
    client.delete(f"{url}/{ids[0]}")
    body = {"prompt": "a", "collection": name, "filter": {"odd": True}}
    assert (
        "odd" in refused(client.post("/v1/retrieve", json=body), 400, "invalid_filter")["message"]
    )


def chat(name: str, *messages: Json, **options: Any) -> Json:
    """A body whose reply has a [RET] early on."""
    return {
        "messages": [*messages, {"role": "user", "content": "hi"}],
        "collection": name,
        "max_tokens": 24,
        "ret_scale_factor": 100,
        "max_num_rets": 1,
        **options,
    }


def shown(client: httpx.Client, body: Json) -> list[Json]:
    answer = client.post("/v1/chat", json=body)
    assert answer.status_code == 200, answer.text
    content = answer.json()["message"]["content"]
    return [part["image"] for part in content if part["type"] == "image"]


def test_a_chat_finds_what_was_just_added_and_not_what_was_removed(
    client: httpx.Client, name: str
) -> None:
    assert shown(client, chat(name)) == []
    ids = add_numbers(client, name, range(1, 2))
    (image,) = shown(client, chat(name))
    assert image["id"] == ids[0]
    ids += add_numbers(client, name, range(2, 3))
    client.patch(f"/v1/collections/{name}/images/{ids[1]}", json={"metadata": {"wanted": 1}})
    (image,) = shown(client, chat(name, filter={"wanted": 1}))
    assert (image["id"], image["metadata"]) == (ids[1], {"n": 2, "wanted": 1})
    assert shown(client, chat(name, filter={"wanted": 1}, min_score=1.0)) == []
    said = {"role": "assistant", "content": [{"type": "image", "image": image}]}
    asked = {"role": "user", "content": "show"}
    (other,) = shown(client, chat(name, asked, said))
    assert other["id"] == ids[0]
    client.delete(f"/v1/collections/{name}/images/{ids[0]}")
    assert shown(client, chat(name, asked, said)) == []
    (again,) = shown(client, chat(name, asked, said, exclude_shown=False))
    assert again["id"] == ids[1]


def test_openai_s_form_does_so_too(client: httpx.Client, name: str) -> None:
    def found(**options: Any) -> list[str]:
        body = {"model": "tiny", **chat(name, **options)}
        answer = client.post("/v1/chat/completions", json=body)
        assert answer.status_code == 200, answer.text
        images = answer.json()["choices"][0]["message"].get("images", [])
        return [image["fromage"]["id"] for image in images]

    ids = add_numbers(client, name, range(2))
    assert found(filter={"n": 0}) == [ids[0]]
    client.patch(f"/v1/collections/{name}/images/{ids[1]}", json={"metadata": {"n": 0, "b": 1}})
    assert found(filter={"n": 0, "b": 1}) == [ids[1]]
    assert found(filter={"n": 0}, min_score=1.0) == []
    client.delete(f"/v1/collections/{name}/images/{ids[1]}")
    assert found(filter={"n": 0}) == [ids[0]]


def test_additions_at_the_same_time(client: httpx.Client, name: str) -> None:
    """All of them are there, each once, whoever sent it first."""
    answers: list[list[Json]] = [[] for _ in range(8)]

    def send(worker: int) -> None:
        with httpx.Client(base_url=client.base_url, timeout=60) as mine:
            for number in range(100, 110):
                answers[worker] += add(mine, name, data_uri(number))["images"]

    threads = [threading.Thread(target=send, args=(worker,)) for worker in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    every = [[one["image"]["id"] for one in images] for images in answers]
    assert all(ids == every[0] for ids in every)
    assert {image["id"] for image in listed(client, name)} == set(every[0])
    added = [one for images in answers for one in images if one["status"] == "added"]
    assert len(added) == len(every[0]) == 10
