"""`fromage index` for whole collections, metadata and pages: what the server does over HTTP."""

import fcntl
import json
import os
import pty
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import httpx
import pytest

from fromage_index import locking
from fromage_index.collection import Collection
from fromage_index.editor import DROPPED
from fromage_index.manifest import MANIFEST
from fromage_server.cli import main
from tests.server.collections import listed, served
from tests.server.pictures import encoded, picture, write_pictures
from tests.server.process import COMMAND, environment

Capture = pytest.CaptureFixture[str]
Json = dict[str, Any]
COUNT = 5


def index(*arguments: object) -> int:
    """The exit status."""
    try:
        return main(["index", *map(str, arguments)])
    except SystemExit as ended:
        return int(str(ended.code))


def model(bundle: Path) -> list[object]:
    return ["--bundle", bundle, "--device", "cpu"]


@pytest.fixture
def mine(tiny_bundle: Path, tmp_path: Path, capsys: Capture) -> Path:
    """Made by the commands, with the pictures 0.png, 1.png, ... in it."""
    folder, out = tmp_path / "new", tmp_path / "collections" / "mine"
    folder.mkdir()
    for number in range(COUNT):
        (folder / f"{number}.png").write_bytes(encoded(picture(number)))
    assert index("create", out, "--bundle", tiny_bundle) == 0
    files = [folder / f"{number}.png" for number in range(COUNT)]
    assert index("add", out, *files, "--metadata", '{"n": 1}', *model(tiny_bundle)) == 0
    capsys.readouterr()
    return out


def as_listed(directory: Path, capture: Capture, *options: str) -> Json:
    assert index("list", directory, "--json", *options) == 0
    found: Json = json.loads(capture.readouterr().out)
    return found


def about(directory: Path) -> dict[str, Json]:
    """Metadata by key."""
    return {r.key: r.metadata for r in Collection.open(directory).page(1000).images}


def refused(status: int, capture: Capture, *arguments: object) -> str:
    """What is said on standard error."""
    assert index(*arguments) == status
    said = capture.readouterr().err
    assert "Traceback" not in said
    return said


def test_an_empty_collection(tiny_bundle: Path, tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "deep" / "mine"
    assert index("create", out, "--bundle", tiny_bundle) == 0
    assert "is an empty collection for tiny" in capsys.readouterr().out
    assert as_listed(out, capsys) == {"images": [], "next": None, "total": 0}
    for verb in ("info", "verify", "list", "compact"):
        assert index(verb, out) == 0
    assert index("search", out, "a dog", *model(tiny_bundle)) == 0
    capsys.readouterr()
    again = refused(1, capsys, "create", out, "--bundle", tiny_bundle)
    assert "is a collection already; choose another name" in again
    assert "holds other files" in refused(1, capsys, "create", tmp_path, "--bundle", tiny_bundle)
    nowhere = refused(1, capsys, "create", tmp_path / "x", "--bundle", tmp_path / "none")
    assert "no such directory" in nowhere
    assert not (tmp_path / "x").exists()
    refused(2, capsys, "create", tmp_path / "x")


def test_the_demo_s_model_is_named_as_such(tmp_path: Path, capsys: Capture) -> None:
    assert index("create", tmp_path / "mine", "--bundle", "demo") == 0
    assert "knows only its own small world" in capsys.readouterr().err


PATCHES: list[tuple[str, Json]] = [
    ("0.png", {"place": "Lisbon", "year": 2024, "tags": ["sea", 3, True, None]}),
    ("0.png", {"year": None, "seen": False}),
    ("1.png", {"n": None}),
    ("1.png", {"never there": None}),
    ("2.png", {"a": {"b": 1}}),
    ("2.png", {"": 1}),
    ("2.png", {"text": "x" * 70_000}),
    ("2.png", {"text": "x" * 40_000}),
    ("2.png", {"more": "x" * 40_000}),
    ("3.png", {"half": "\ud800"}),
    ("3.png", {}),
]


def test_metadata_changes_as_over_http(
    mine: Path, tiny_bundle: Path, tmp_path: Path, capsys: Capture
) -> None:
    """Set, replaced, taken away, refused: step by step the same in two collections."""
    with served(tiny_bundle, tmp_path, collections_dir=mine.parent) as client:
        assert client.post("/v1/collections", json={"name": "theirs"}).status_code == 201
        files = [("file", (f"{n}.png", encoded(picture(n)))) for n in range(COUNT)]
        made = client.post(
            "/v1/collections/theirs/images", files=files, data={"metadata": '{"n": 1}'}
        ).json()
        ids = {row["image"]["key"]: row["image"]["id"] for row in made["images"]}
        for key, change in PATCHES:
            answer = client.patch(
                f"/v1/collections/theirs/images/{ids[key]}",
                content=json.dumps({"metadata": change}),
                headers={"content-type": "application/json"},
            )
            status = index("update", mine, key, "--metadata", json.dumps(change))
            assert (status == 0) == (answer.status_code == 200), change
            said = capsys.readouterr()
            if status:
                assert said.err.strip().splitlines()[-1].partition(": ")[2]
            over_http = {image["key"]: image["metadata"] for image in listed(client, "theirs")}
            assert about(mine) == over_http
            # The running server sees what the command did.
            assert {i["key"]: i["metadata"] for i in listed(client, "mine")} == over_http
    assert over_http["0.png"] == {
        "n": 1,
        "place": "Lisbon",
        "tags": ["sea", 3, True, None],
        "seen": False,
    }
    assert over_http["1.png"] == {}


def test_what_a_sidecar_said_can_be_changed(
    tiny_bundle: Path, tmp_path: Path, capsys: Capture
) -> None:
    """It may be nested, as metadata that is set is not."""
    write_pictures(tmp_path / "pictures", 1)
    nested = {"objects": {"bbox": [[1, 2]]}, "year": 1999}
    line = json.dumps({"file_name": "pic 00.png", **nested})
    (tmp_path / "pictures" / "metadata.jsonl").write_text(line)
    out = tmp_path / "shelf"
    assert index("build", tmp_path / "pictures", "--collection", out, *model(tiny_bundle)) == 0
    assert index("update", out, "pic 00.png", "--metadata", '{"year": 2024}') == 0
    assert about(out)["pic 00.png"] == nested | {"year": 2024}
    assert index("update", out, "pic 00.png", "--metadata", '{"objects": null}') == 0
    assert about(out)["pic 00.png"] == {"year": 2024}


def test_a_key_of_one_s_own(mine: Path, tiny_bundle: Path, tmp_path: Path, capsys: Capture) -> None:
    file = tmp_path / "another.png"
    file.write_bytes(encoded(picture(41)))
    options = model(tiny_bundle)
    for key, status, told in (
        ("", 2, "--key has 0 characters; from 1 to 256"),
        ("k" * 257, 2, "--key has 257 characters"),
        (os.fsdecode(b"\xff"), 1, "the key '\\udcff' holds half of a surrogate pair"),
    ):
        assert told in refused(status, capsys, "add", mine, file, "--key", key, *options)
    several = [mine, file, tmp_path / "new", "--key", "beach"]
    assert f"there are {COUNT + 1}" in refused(2, capsys, "add", *several, *options)
    (tmp_path / "empty").mkdir()
    nothing = [mine, tmp_path / "empty", "--key", "beach"]
    assert "there are 0" in refused(2, capsys, "add", *nothing, *options)
    assert len(about(mine)) == COUNT
    assert index("add", mine, file, "--key", "the beach", *options) == 0
    assert next(iter(about(mine))) == "the beach"


def test_many_images_at_once(mine: Path, capsys: Capture) -> None:
    collection = Collection.open(mine)
    id = collection.ids[4]
    version = collection.manifest.version
    command = ["update", mine, "0.png", "1.png", id, "4.png", "--metadata"]
    assert index(*command, '{"seen": true}') == 0
    assert capsys.readouterr().out == "3 changed\n"
    assert Collection.open(mine).manifest.version == version + 1
    assert [key for key, told in about(mine).items() if "seen" in told] == [
        "4.png",
        "1.png",
        "0.png",
    ]
    assert index("update", mine, "0.png", "2.png", "--metadata", '{"seen": true}') == 0
    assert capsys.readouterr().out == "1 changed, 1 had it already\n"
    before = about(mine)
    for verb in (["update", "--metadata", '{"x": 1}'], ["remove"]):
        said = refused(1, capsys, verb[0], mine, "0.png", "nobody", *verb[1:])
        assert "has no image 'nobody'; nothing is changed" in said
    assert about(mine) == before


def test_one_that_cannot_be_changed_is_named(mine: Path, capsys: Capture) -> None:
    assert index("update", mine, "0.png", "--metadata", json.dumps({"a": "x" * 40_000})) == 0
    large = json.dumps({"b": "x" * 40_000})
    said = refused(1, capsys, "update", mine, "0.png", "1.png", "--metadata", large)
    assert Collection.open(mine).ids[0] in said
    assert "at most 65,536" in said
    assert "b" in about(mine)["1.png"]
    assert "b" not in about(mine)["0.png"]


@pytest.mark.parametrize(
    ("metadata", "told"),
    [
        ("{", "cannot be read as JSON"),
        ("[]", "a JSON object was expected"),
        ('{"a": {}}', "'a' is a dict"),
        (f'{{"a": {"5" * 5000}}}', "a is an integer of 5,000 digits"),
        ('{"a": NaN}', "'a' is nan"),
    ],
)
def test_metadata_that_is_refused(mine: Path, capsys: Capture, metadata: str, told: str) -> None:
    assert told in refused(2, capsys, "update", mine, "0.png", "--metadata", metadata)
    assert "--metadata" in refused(2, capsys, "update", mine, "0.png")


def test_a_key_of_several(mine: Path, tiny_bundle: Path, tmp_path: Path, capsys: Capture) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "0.png").write_bytes(encoded(picture(40)))
    assert index("add", mine, other / "0.png", *model(tiny_bundle)) == 0
    twins = [r.id for r in Collection.open(mine).page(10).images if r.key == "0.png"]
    assert len(twins) == 2
    for verb in (["update", mine, "0.png", "--metadata", "{}"], ["remove", mine, "0.png"]):
        said = refused(1, capsys, *verb)
        assert "2 images" in said
        assert all(id in said for id in twins)
    assert index("remove", mine, twins[0]) == 0
    assert index("remove", mine, "0.png") == 0
    assert "0.png" not in about(mine)


def test_pages_are_the_server_s(
    mine: Path, tiny_bundle: Path, tmp_path: Path, capsys: Capture
) -> None:
    fields = ("id", "key", "width", "height", "metadata")

    def same(page: Json) -> Json:
        images = [{field: image[field] for field in fields} for image in page["images"]]
        return {**page, "images": images}

    with served(tiny_bundle, tmp_path, collections_dir=mine.parent) as client:
        after: list[str] = []
        for _ in range(3):
            found = as_listed(mine, capsys, "--limit", "2", *after)
            params = {"limit": 2} | ({"after": after[1]} if after else {})
            page = client.get("/v1/collections/mine/images", params=params).json()
            assert same(found) == same(page)
            after = ["--after", found["next"]] if found["next"] else []
        assert not after
    assert [image["key"] for image in found["images"]] == ["0.png"]
    assert [i["key"] for i in as_listed(mine, capsys)["images"]] == [
        f"{number}.png" for number in reversed(range(COUNT))
    ]


def test_a_list_says_where_it_goes_on(mine: Path, capsys: Capture) -> None:
    assert index("list", mine, "--limit", "3") == 0
    said = capsys.readouterr()
    assert len(said.out.splitlines()) == 3
    place = said.err.strip().rpartition(" ")[2]
    assert said.err == f"fromage: there are more: --after {place}\n"
    assert index("list", mine, "--after", place) == 0
    rest = capsys.readouterr()
    assert [line.split("\t")[1] for line in rest.out.splitlines()] == ["1.png", "0.png"]
    assert rest.err == ""
    for wrong in (["--limit", "0"], ["--after", "-1"], ["--after", "9" * 19]):
        refused(2, capsys, "list", mine, *wrong)


def test_a_long_list_is_read_page_by_page(
    mine: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = as_listed(mine, capsys)
    monkeypatch.setattr("fromage_server.commands.index.look._PAGE", 2)
    assert as_listed(mine, capsys) == whole
    assert as_listed(mine, capsys, "--limit", "3")["images"] == whole["images"][:3]


def test_what_a_terminal_obeys_is_escaped(mine: Path, capsys: Capture) -> None:
    odd = "\x9b31m \u202e \x1b[0m \N{GRINNING FACE} ü"
    assert index("update", mine, "0.png", "--metadata", json.dumps({"odd": odd})) == 0
    capsys.readouterr()
    for options in ([], ["--json"]):
        assert index("list", mine, *options) == 0
        said = capsys.readouterr().out
        assert all(c.isprintable() or c in "\t\n" for c in said)
        assert "\N{GRINNING FACE} ü" in said
    assert json.loads(said)["images"][-1]["metadata"]["odd"] == odd


def test_collections_of_a_directory(
    mine: Path, tiny_bundle: Path, tmp_path: Path, capsys: Capture
) -> None:
    assert index("create", mine.parent / "other", "--bundle", tiny_bundle) == 0
    (mine.parent / f"{DROPPED}x").mkdir()
    (mine.parent / f"{DROPPED}x" / MANIFEST).write_text("{}")
    capsys.readouterr()
    assert index("collections", mine.parent) == 0
    rows = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert [row[:3] for row in rows] == [["mine", f"{COUNT}", "tiny"], ["other", "0", "tiny"]]
    assert index("collections", mine.parent, "--json") == 0
    cards = json.loads(capsys.readouterr().out)["collections"]
    with served(tiny_bundle, tmp_path, collections_dir=mine.parent) as client:
        theirs = client.get("/v1/collections").json()["collections"]
    common = ("name", "size", "dim", "created_at", "changed_at")
    ours = [{name: card[name] for name in common} for card in cards]
    assert ours == [
        {name: card[name] for name in common}
        for card in sorted(theirs, key=lambda card: str(card["name"]))
    ]
    (mine / MANIFEST).write_text("{}")
    assert index("collections", mine.parent) == 1
    said = capsys.readouterr()
    assert said.out.startswith("other\t0")
    assert "mine" in said.err
    assert "is not a directory" in refused(1, capsys, "collections", tmp_path / "nowhere")


def test_drop(mine: Path, capsys: Capture) -> None:
    """Nobody can be asked here."""
    assert "say --yes" in refused(2, capsys, "drop", mine)
    (mine / "notes.txt").write_text("mine")
    assert "holds other files, 'notes.txt'" in refused(1, capsys, "drop", mine, "--yes")
    (mine / "notes.txt").unlink()
    assert Collection.open(mine).size == COUNT
    assert index("drop", mine, "--yes") == 0
    assert f"is dropped, {COUNT} images\n" in capsys.readouterr().out
    assert list(mine.parent.iterdir()) == []
    assert "holds no collection" in refused(1, capsys, "drop", mine, "--yes")
    assert "holds no collection" in refused(1, capsys, "drop", mine.parent, "--yes")
    assert mine.parent.is_dir()


def test_drop_leaves_the_pictures_that_it_refers_to(
    tiny_bundle: Path, tmp_path: Path, capsys: Capture
) -> None:
    write_pictures(tmp_path / "pictures", 2)
    out = tmp_path / "shelf"
    build = ["build", tmp_path / "pictures", "--collection", out]
    assert index(*build, *model(tiny_bundle)) == 0
    (tmp_path / "link").symlink_to(out)
    before = sorted((tmp_path / "pictures").iterdir())
    assert index("drop", tmp_path / "link", "--yes") == 0
    assert "are still there" in capsys.readouterr().out
    assert sorted((tmp_path / "pictures").iterdir()) == before
    assert not out.exists()


@pytest.mark.parametrize("verb", ["drop", "update", "remove"])
def test_whoever_else_writes_is_waited_for(
    mine: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    options = {"drop": ["--yes"], "update": ["0.png", "--metadata", "{}"], "remove": ["0.png"]}
    monkeypatch.setattr(locking, "_PATIENCE_S", 0.05)
    with (mine / locking.LOCK).open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert "is writing" in refused(1, capsys, verb, mine, *options[verb])
    assert Collection.open(mine).size == COUNT


def test_drop_asks_on_a_terminal(mine: Path, tmp_path: Path) -> None:
    question = f"Delete {mine} with its {COUNT} images? [y/N] "
    for answer, status in (("\n", 1), ("nay\n", 1), ("\x04", 1), ("y\n", 0)):
        assert mine.exists()
        master, slave = pty.openpty()
        os.write(master, answer.encode())
        done = subprocess.run(
            [COMMAND, "index", "drop", str(mine)],
            stdin=slave,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment(tmp_path),
            text=True,
            timeout=60,
            check=False,
        )
        os.close(slave)
        os.close(master)
        assert done.returncode == status, done.stdout
        assert done.stdout.startswith(question)
        assert ("is kept" if status else "is dropped") in done.stdout
    assert not mine.exists()


def test_a_server_serves_what_was_created_at_its_next_start(
    mine: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    def names(client: httpx.Client) -> list[tuple[str, bool]]:
        cards = client.get("/v1/collections").json()["collections"]
        return [(card["name"], card["droppable"]) for card in cards]

    with served(tiny_bundle, tmp_path, collections_dir=mine.parent) as client:
        assert names(client) == [("mine", True)]
        assert index("drop", mine, "--yes") == 0
    with served(tiny_bundle, tmp_path, collections_dir=mine.parent) as client:
        assert names(client) == []


def test_bench_measures_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert index("bench", "--images", 300, "--dim", 8) == 0
    told = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert told["images"].startswith("300, 8 numbers each")
    assert set(told) == {"images", "made", "opened", "one", "16"}
    assert list(tmp_path.iterdir()) == []


def test_bench_of_more_than_memory_holds(capsys: Capture) -> None:
    assert "do not fit into memory" in refused(2, capsys, "bench", "--images", 10**12)
