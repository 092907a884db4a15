"""`fromage index` on a collection that changes, from the shell's side."""

import json
import os
from pathlib import Path

import pytest

from fromage_index.collection import Collection
from fromage_server.cli import main
from fromage_server.demo_world import warning_for
from tests.server.pictures import encoded, picture, write_pictures

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def shelf(tiny_bundle: Path, tmp_path: Path) -> Path:
    write_pictures(tmp_path / "pictures", 3)
    out = tmp_path / "shelf"
    build = ["index", "build", str(tmp_path / "pictures"), "--collection", str(out)]
    assert main([*build, "--bundle", str(tiny_bundle), "--device", "cpu"]) == 0
    return out


@pytest.fixture
def more(tmp_path: Path) -> Path:
    folder = tmp_path / "more"
    (folder / "deep").mkdir(parents=True)
    for name, number in (("new.png", 20), ("deep/other.png", 21), ("again.png", 1)):
        (folder / name).write_bytes(encoded(picture(number)))
    (folder / "broken.png").write_text("no picture")
    return folder


def lines(capture: Capture) -> list[list[str]]:
    return [line.split("\t") for line in capture.readouterr().out.splitlines()]


def test_add_list_search_remove_compact(
    shelf: Path, more: Path, tiny_bundle: Path, capsys: Capture
) -> None:
    model = ["--bundle", str(tiny_bundle), "--device", "cpu"]
    sidecar = more / "about.jsonl"
    sidecar.write_text('{"file_name": "new.png", "year": 2024}\n')
    capsys.readouterr()
    add = ["index", "add", str(shelf), str(more), "--metadata", str(sidecar), *model]
    assert main(add) == 1
    said = capsys.readouterr()
    assert "2 added, 1 there already; 5 images" in said.out
    assert "broken.png: the file is text" in said.err
    assert main(["index", "add", str(shelf), str(more / "new.png"), *model]) == 0
    assert "0 added, 1 there already" in capsys.readouterr().out

    assert main(["index", "list", str(shelf)]) == 0
    listed = lines(capsys)
    assert {row[1] for row in listed[:2]} == {"new.png", "deep/other.png"}
    assert [row[1] for row in listed[2:]] == ["pic 02.png", "pic 01.png", "pic 00.png"]
    assert all(row[2] == "60x40" for row in listed)
    about = {row[1]: json.loads(row[3]) for row in listed}
    assert about["new.png"] == {"year": 2024}

    same = ["index", "search", str(shelf), "--image", str(more / "new.png"), *model]
    assert main([*same, "-k", "2"]) == 0
    best, second = lines(capsys)
    assert (best[0], best[2]) == ("1.0000", "new.png")
    assert float(second[0]) < 1
    assert main(["index", "search", str(shelf), "a dog", *model]) == 0
    assert len(lines(capsys)) == 5
    assert main(["index", "search", str(shelf), "a", "--filter", '{"year": 2024}', *model]) == 0
    assert [row[2] for row in lines(capsys)] == ["new.png"]

    id = Collection.open(shelf).ids[0]
    assert main(["index", "remove", str(shelf), "new.png", "nobody"]) == 1
    assert "'nobody'" in capsys.readouterr().err
    assert main(["index", "remove", str(shelf), "new.png", id]) == 0
    assert "2 removed; 3 images" in capsys.readouterr().out
    assert main(["index", "compact", str(shelf)]) == 0
    assert "1 segments instead of 2" in capsys.readouterr().out
    assert main(["index", "compact", str(shelf)]) == 0
    assert "nothing to do" in capsys.readouterr().out
    assert main(["index", "verify", str(shelf)]) == 0
    assert "3 of 3 images can be shown" in capsys.readouterr().out


def test_text_search_is_retrieve_s(tiny_bundle: Path, shelf: Path, capsys: Capture) -> None:
    """The same ranking that the server answers with, which its own tests check."""
    import httpx

    from fromage_server.settings import Settings
    from tests.server.local import local_server

    model = ["--bundle", str(tiny_bundle), "--device", "cpu"]
    assert main(["index", "search", str(shelf), "the quick brown", *model]) == 0
    printed = [(row[2], float(row[0])) for row in lines(capsys)]
    settings = Settings(bundle=str(tiny_bundle), device="cpu", collections={"shelf": shelf})
    with local_server(settings) as server:
        body = {"prompt": "the quick brown", "k": 10}
        images = httpx.post(f"{server.url}/v1/retrieve", json=body).json()["images"]
    assert [image["key"] for image in images] == [key for key, _ in printed]
    assert [image["score"] for image in images] == pytest.approx(
        [score for _, score in printed], abs=1e-3
    )


def test_a_file_whose_name_is_no_text(shelf: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    """Given by itself it has the key that it has in a folder."""
    for number, folder in enumerate(("one", "other")):
        (tmp_path / folder).mkdir()
        file = tmp_path / folder / os.fsdecode(b"\xff.png")
        file.write_bytes(encoded(picture(30 + number)))
    model = ["--bundle", str(tiny_bundle), "--device", "cpu"]
    assert main(["index", "add", str(shelf), str(file), str(tmp_path / "one"), *model]) == 0
    keys = [record.key for record in Collection.open(shelf).page(2).images]
    assert keys == ["\N{REPLACEMENT CHARACTER}.png"] * 2


def test_metadata_for_all(shelf: Path, more: Path, tiny_bundle: Path, capsys: Capture) -> None:
    model = ["--bundle", str(tiny_bundle), "--device", "cpu"]
    add = ["index", "add", str(shelf), str(more / "new.png"), *model, "--metadata"]
    for wrong, told in (
        ('{"a":', "--metadata cannot be read as JSON: Expecting value"),
        ('{"a": {"b": 1}}', "'a' is a dict"),
        ('{"a": ' + "[" * 100_000, "it is nested too deeply"),
        (f'{{"a": {"1" * 5000}}}', "a is an integer of 5,000 digits"),
    ):
        assert main([*add, wrong]) == 1
        said = capsys.readouterr().err
        assert told in said
        assert len(said) < 1000
    with pytest.raises(SystemExit):
        main(["index", "search", str(shelf), "a", "--filter", f'{{"n": [{"1" * 5000}]}}'])
    assert "n.0 is an integer of 5,000 digits" in capsys.readouterr().err
    assert main([*add, '{"by": "me"}']) == 0
    collection = Collection.open(shelf)
    assert collection.image(collection.ids[-1]).metadata == {"by": "me"}


def test_another_bundle_is_refused(shelf: Path, more: Path, capsys: Capture) -> None:
    for command in (["add", str(shelf), str(more)], ["search", str(shelf), "a dog"]):
        assert main(["index", *command]) == 1
        assert "was made for bundle tiny" in capsys.readouterr().err


def test_verify_names_what_cannot_be_shown(shelf: Path, tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "pictures" / "pic 01.png").unlink()
    assert main(["index", "verify", str(shelf)]) == 0
    said = capsys.readouterr()
    assert "2 of 3 images can be shown" in said.out
    assert "pic 01.png" in said.err
    (vectors,) = shelf.glob("*.vectors.npy")
    vectors.write_bytes(vectors.read_bytes()[:-1])
    assert main(["index", "verify", str(shelf)]) == 1
    assert vectors.name in capsys.readouterr().err


def test_the_demo_s_model_is_no_model_for_photographs(
    tmp_path: Path, capsys: Capture, caplog: pytest.LogCaptureFixture
) -> None:
    write_pictures(tmp_path / "pictures", 2)
    out = tmp_path / "shelf"
    build = ["index", "build", str(tmp_path / "pictures"), "--collection", str(out)]
    assert main([*build, "--bundle", "demo", "--device", "cpu"]) == 0
    said = capsys.readouterr().err
    assert "knows only its own small world" in said
    assert "fromage weights import jykoh/fromage" in said
    assert warning_for("my-bundle") is None
