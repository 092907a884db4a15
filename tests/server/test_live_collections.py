"""Collections over the life of a server: beside running replies, after a kill, at a restart."""

import threading
from pathlib import Path
from typing import Any

import httpx
import pytest

from fromage_index.collection import Collection
from fromage_index.editor import Removal, edit
from fromage_index.locking import writing
from fromage_index.store import verify
from fromage_server.cli import main
from fromage_server.settings import Settings
from tests.server.collections import (
    add,
    add_numbers,
    card,
    data_uri,
    listed,
    retrieved,
    send,
    served,
)
from tests.server.local import Local, local_server
from tests.server.pictures import write_pictures
from tests.server.searching import hold
from tests.server.test_bad_requests import refused


def test_a_restart_finds_what_was_made(
    tiny_bundle: Path,
    tiny_collection: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    made = tmp_path / "made"
    with served(tiny_bundle, tmp_path, collections_dir=made) as client:
        assert client.get("/v1/collections").json()["collections"] == []
        for name in ("zebra", "apple"):
            assert client.post("/v1/collections", json={"name": name}).status_code == 201
        first = card(client, "zebra")
        assert first is not None
        assert first["default"]
        add_numbers(client, "apple", range(2))
        client.post("/v1/collections", json={"name": "gone"})
        client.delete("/v1/collections/gone")
    assert {path.name for path in made.iterdir()} == {"zebra", "apple"}
    # One of the command's making, one that is damaged, one that a crash left half dropped.
    build = ["index", "build", str(tiny_collection.parent / "pictures"), "--copy"]
    arguments = ["--collection", str(made / "built"), "--bundle", str(tiny_bundle)]
    assert main([*build, *arguments, "--device", "cpu"]) == 0
    (made / "broken").mkdir()
    (made / "broken" / "manifest.json").write_text("{")
    (made / ".dropped-1").mkdir()
    (made / ".dropped-1" / "manifest.json").write_text("{}")
    shelf = {"shelf": tiny_collection}
    with served(tiny_bundle, tmp_path, collections_dir=made, collections=shelf) as client:
        cards = client.get("/v1/collections").json()["collections"]
        assert cards[0]["name"] == "shelf"
        assert {card["name"] for card in cards} == {"shelf", "zebra", "apple", "built"}
        assert [card["droppable"] for card in cards] == [False, True, True, True]
        assert sorted(retrieved(client, "apple")) == ["0", "1"]
        assert client.delete("/v1/collections/built").status_code == 200
    assert {path.name for path in made.iterdir()} == {"zebra", "apple", "broken"}
    assert "collection broken is not served" in caplog.text


def test_read_only(tiny_bundle: Path, tiny_collection: Path, tmp_path: Path) -> None:
    shelves = {"shelf": tiny_collection}
    before = (tiny_collection / "manifest.json").read_bytes()
    with served(tiny_bundle, tmp_path, collections=shelves, read_only=True) as client:
        shelf = card(client, "shelf")
        assert shelf is not None
        assert not shelf["writable"]
        (image, *_) = listed(client, "shelf")
        url = "/v1/collections/shelf/images"
        attempts = [
            client.post("/v1/collections", json={"name": "mine"}),
            client.delete("/v1/collections/shelf"),
            client.post(url, json={"images": [data_uri(1)]}),
            client.patch(f"{url}/{image['id']}", json={"metadata": {"a": 1}}),
            client.delete(f"{url}/{image['id']}"),
        ]
        for answer in attempts:
            assert "--read-only" in refused(answer, 403, "read_only")["message"]
        assert len(retrieved(client, "shelf")) == shelf["size"]
    assert (tiny_collection / "manifest.json").read_bytes() == before


@pytest.fixture
def local(tiny_bundle: Path, tmp_path: Path) -> Any:
    settings = Settings(bundle=str(tiny_bundle), device="cpu", cache_dir=tmp_path)
    with local_server(settings) as server:
        yield server


def test_streams_go_on_while_pictures_are_added(local: Local) -> None:
    """Of two replies that run, both bring text between the beginning of an addition and its end,
    and one that started before finds what was added after."""
    with httpx.Client(base_url=local.url, timeout=60) as client:
        client.post("/v1/collections", json={"name": "mine"})
        events: list[str] = []
        adding = threading.Event()

        def reply() -> None:
            body = {"prompt": "a", "max_tokens": 1500, "ignore_eos": True, "stream": True}
            body |= {"collection": "mine", "max_num_rets": 0}
            with client.stream("POST", "/v1/generate", json=body) as response:
                for line in response.iter_lines():
                    if line.startswith("event:"):
                        events.append(line)
                    if len(events) > 20:
                        adding.set()

        threads = [threading.Thread(target=reply) for _ in range(2)]
        for thread in threads:
            thread.start()
        assert adding.wait(60)
        added = 0
        while local.service.stats().running == 2 and added < 40:
            before = len(events)
            add(client, "mine", *[data_uri(number) for number in range(added, added + 4)])
            added += 4
            if local.service.stats().running < 2:
                break  # one ended meanwhile, perhaps at once
            events.append("added")
            assert len(events) > before
        for thread in threads:
            thread.join()
        places = [place for place, event in enumerate(events) if event == "added"]
        assert len(places) >= 2
        between = zip([0, *places], places, strict=False)
        assert all("event: text.delta" in events[start:end] for start, end in between)


def test_a_running_reply_finds_what_was_added_since_it_began(local: Local) -> None:
    """Its search is held up until the picture is there, and the one it would have found is not."""
    with httpx.Client(base_url=local.url, timeout=60) as client:
        client.post("/v1/collections", json={"name": "mine"})
        doomed = send(client, 1)
        body = {"prompt": "a", "max_tokens": 40, "ignore_eos": True, "stream": True}
        body |= {"collection": "mine", "ret_scale_factor": 100, "max_num_rets": 1}
        body |= {"max_img_per_ret": 4}
        gate = hold(local.service._workers.searches)
        with client.stream("POST", "/v1/generate", json=body) as response:
            lines = response.iter_lines()
            text = next(lines)
            added = send(client, 2)
            client.delete(f"/v1/collections/mine/images/{doomed}")
            gate.set()
            text += "\n".join(lines)
        assert "event: image" in text
        assert added in text
        assert doomed not in text


def test_a_caller_who_leaves_does_not_stop_the_others(local: Local) -> None:
    with httpx.Client(base_url=local.url, timeout=60) as client:
        client.post("/v1/collections", json={"name": "mine"})
        live = local.service.gallery.live("mine")
        with writing(live.snapshot.directory):
            first = live.submit([Removal("nobody")])
            local.until(first.running)  # it waits for the lock, and the next two for it
            left, stays = (live.submit([Removal("nobody")]) for _ in range(2))
            assert left.cancel()
        assert stays.result(30).outcomes
        assert send(client, 1)


def test_dropped_while_something_is_added(local: Local, tmp_path: Path) -> None:
    with httpx.Client(base_url=local.url, timeout=60) as client:
        client.post("/v1/collections", json={"name": "mine"})
        url, statuses = "/v1/collections/mine/images", set()

        def work() -> None:
            for number in range(1000):
                answer = client.post(url, json={"images": [data_uri(number)]})
                statuses.add(answer.status_code)
                if answer.status_code != 200:
                    refused(answer, 404, "collection_not_found")
                    return

        threads = [threading.Thread(target=work) for _ in range(3)]
        for thread in threads:
            thread.start()
        local.until(lambda: 200 in statuses)
        assert client.delete("/v1/collections/mine").status_code == 200
        for thread in threads:
            thread.join()
        assert statuses == {200, 404}
        assert not (tmp_path / "created" / "mine").exists()


def test_what_another_process_changes_is_seen(local: Local, tmp_path: Path) -> None:
    """As `fromage index` does beside a server; the server's own changes come on top."""
    with httpx.Client(base_url=local.url, timeout=60) as client:
        client.post("/v1/collections", json={"name": "mine"})
        ids = [send(client, number) for number in range(3)]
        edit(Collection.open(tmp_path / "created" / "mine"), [Removal(ids[1])])
        assert sorted(retrieved(client, "mine")) == ["0", "2"]
        edit(Collection.open(tmp_path / "created" / "mine"), [Removal(ids[0])])
        assert send(client, 0) == ids[0]
        assert sorted(retrieved(client, "mine")) == ["0", "2"]
        # What cannot be read is not served, but what was served goes on being so.
        file = tmp_path / "created" / "mine" / "manifest.json"
        good = file.read_bytes()
        file.write_text("{")
        assert sorted(retrieved(client, "mine")) == ["0", "2"]
        answer = client.post("/v1/collections/mine/images", json={"images": [data_uri(9)]})
        refused(answer, 500, "storage_failed")
        file.write_bytes(good)
        assert send(client, 9)
        assert len(retrieved(client, "mine")) == 3


def test_one_by_one_they_are_compacted_in_the_background(local: Local, tmp_path: Path) -> None:
    with httpx.Client(base_url=local.url, timeout=60) as client:
        client.post("/v1/collections", json={"name": "mine"})
        ids = [send(client, number) for number in range(40)]
        mine = tmp_path / "created" / "mine"
        local.until(lambda: len(list(mine.glob("*.vectors.npy"))) < 20, seconds=30)
        assert [image["id"] for image in listed(client, "mine")] == ids[::-1]
        verify(mine)


def test_changes_of_an_indexed_folder_stay(tiny_bundle: Path, tmp_path: Path) -> None:
    """They are kept beside its index, over a restart; and where the index is damaged, the server
    rather doesn't start than build it again without them."""
    write_pictures(tmp_path / "pictures", 3)
    folder = {"box": tmp_path / "pictures"}
    with served(tiny_bundle, tmp_path, images=folder) as client:
        add_numbers(client, "box", range(50, 51))
        (gone, *_) = [one for one in listed(client, "box") if one["key"] == "pic 01.png"]
        client.delete(f"/v1/collections/box/images/{gone['id']}")
    assert (tmp_path / "pictures" / "pic 01.png").exists()
    with served(tiny_bundle, tmp_path, images=folder) as client:
        assert sorted(retrieved(client, "box")) == ["50", "pic 00.png", "pic 02.png"]
    (kept,) = (tmp_path / "collections").iterdir()
    (vectors,) = kept.glob("*-v*.vectors.npy")
    vectors.write_bytes(b"")
    with (
        pytest.raises(AssertionError, match="fromage index repair"),
        served(tiny_bundle, tmp_path, images=folder),
    ):
        pass
    assert main(["index", "repair", str(kept), "--bundle", str(tiny_bundle)]) == 0
    with served(tiny_bundle, tmp_path, images=folder) as client:
        assert sorted(retrieved(client, "box")) == ["50", "pic 00.png", "pic 02.png"]


def test_the_demo_s_model_and_a_folder_of_photographs(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_pictures(tmp_path / "pictures", 2)
    with served(Path("demo"), tmp_path, images={"box": tmp_path / "pictures"}):
        pass
    assert "knows only its own small world" in caplog.text
    assert "fromage weights import jykoh/fromage" in caplog.text
