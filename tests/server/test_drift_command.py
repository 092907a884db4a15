"""`fromage eval drift` from a user's side."""

import json
from pathlib import Path

import pytest

from fromage_server.cli import main
from tests.server import pictures
from tests.weights.tiny_bundle import write_bundle

pytest.importorskip("torchao")
pytest.importorskip("bitsandbytes")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("drift") / "tiny"
    write_bundle(path, context=256, width=64)
    return path


@pytest.fixture(scope="module")
def shelf(bundle: Path) -> Path:
    folder = bundle.parent / "pictures"
    pictures.write_pictures(folder, 9)
    path = bundle.parent / "shelf"
    build = ["index", "build", str(folder), "--collection", str(path), "--device", "cpu"]
    assert main([*build, "--bundle", str(bundle)]) == 0
    return path


def drift(bundle: Path, prompts: Path, *more: str) -> int:
    command = ["eval", "drift", "--bundle", str(bundle), "--prompts", str(prompts)]
    return main([*command, "--device", "cpu", "--max-tokens", "8", *more])


def test_the_table_and_the_json(
    bundle: Path, shelf: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keys = sorted(file.name for file in (bundle.parent / "pictures").iterdir())
    rows = [{"prompt": "a dog", "image": keys[2]}, {"prompt": "two cats"}, {"prompt": "hello"}]
    prompts, out = tmp_path / "asked.jsonl", tmp_path / "drift.json"
    prompts.write_text("\n".join(json.dumps(row) for row in rows) + "\n")
    more = ["--collection", str(shelf), "--quantize", "none", "int8", "int4", "--json", str(out)]
    assert drift(bundle, prompts, *more, "--against", "float32", "--dtype", "bfloat16") == 0
    told = capsys.readouterr().out
    assert "3 prompts, 3 queries" in told
    for name in ("float32", "bfloat16", "int8, bfloat16", "int4, bfloat16"):
        assert name in told
    for line in ("same choice", "KL divergence", "same first picture", "R@5"):
        assert line in told
    written = json.loads(out.read_text())
    assert (written["what"], written["against"], written["prompts"]) == ("drift", "float32", 3)
    base, rounded, eight, four = written["results"]
    assert (base["same_token"], base["same_reply"], base["same_first"]) == (100, 100, 100)
    assert base["divergence"] < rounded["divergence"] < eight["divergence"] < four["divergence"]
    assert 1 > rounded["cosine"] > four["cosine"]
    assert {row["recall_5"] for row in written["results"]} <= {0, 100}


def test_plain_lines_without_pictures(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts = tmp_path / "asked.txt"
    prompts.write_text("a dog\n\ntwo cats\nthree\n")
    assert drift(bundle, prompts, "--quantize", "int8", "--limit", "2") == 0
    told = capsys.readouterr().out
    assert "2 prompts, 2 queries" in told
    assert "cosine of the queries" in told
    assert "first picture" not in told


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ('{"prompt": "x"}\n{"promt": "y"}', "line 2: expected"),
        ('{"prompt": "x", "image": "no such"}', "line 1: no picture has the key 'no such'"),
        ("", "no prompts"),
    ],
)
def test_wrong_files_say_so(
    bundle: Path,
    shelf: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    content: str,
    expected: str,
) -> None:
    prompts = tmp_path / "asked.jsonl"
    prompts.write_text(content)
    assert drift(bundle, prompts, "--collection", str(shelf)) == 1
    assert expected in capsys.readouterr().err


def test_wrong_arguments(bundle: Path, shelf: Path, tmp_path: Path) -> None:
    for wrong in (["--collection", str(shelf)], ["--quantize", "int3"], ["--limit", "0"]):
        with pytest.raises(SystemExit, match="2"):
            main(["eval", "drift", "--bundle", str(bundle), *wrong])
