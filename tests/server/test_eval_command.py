"""`fromage eval vist|visdial|captions` from a user's side."""

import json
from pathlib import Path

import pytest

from fromage_server.cli import main
from tests.weights.evaluation.files import write_visdial, write_vist
from tests.weights.tiny_bundle import write_bundle
from tests.weights.training.world import write_tsv


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("bundle")
    write_bundle(path, context=512)
    return str(path)


def test_vist(tmp_path: Path, bundle: str, capsys: pytest.CaptureFixture[str]) -> None:
    file = write_vist(tmp_path, 7)
    (tmp_path / "photos" / "p10.png").unlink()
    out = tmp_path / "found.json"
    command = ["eval", "vist", str(file), "--images", str(tmp_path / "photos"), "--bundle", bundle]
    assert main([*command, "--device", "cpu", "--json", str(out)]) == 0
    told = capsys.readouterr().out
    assert "1 stories left out: a picture is missing" in told
    assert "6 stories, 10 pictures to find them among" in told
    assert "the paper, OPT-6.7B" in told
    assert "51.8" in told
    written = json.loads(out.read_text())
    assert (written["what"], written["bundle"], written["dtype"]) == ("vist", "tiny", "float32")
    assert written["options"] == {"limit": None, "chat": False, "reference_compat": False}
    rows = written["results"]
    assert [row["name"] for row in rows] == ["1 caption", "5 captions", "5 captions, 4 images"]
    assert all(row["count"] == 6 for row in rows)
    more = ["--limit", "2", "--device", "cpu"]
    assert main([*command, *more, "--reference-compat"]) == 0
    assert "2 stories, 10 pictures" in capsys.readouterr().out
    assert main([*command, *more, "--chat"]) == 0
    for wrong in (["--chat", "--reference-compat"], ["--limit", "0"], ["--json", "no/such/x.json"]):
        with pytest.raises(SystemExit, match="2"):
            main([*command, *wrong])


def test_visdial(tmp_path: Path, bundle: str, capsys: pytest.CaptureFixture[str]) -> None:
    file, dense = write_visdial(tmp_path, 4)
    images = ["--images", str(tmp_path / "pictures")]
    command = ["eval", "visdial", str(file), "--dense", str(dense), *images, "--bundle", bundle]
    assert main([*command, "--device", "cpu"]) == 0
    told = capsys.readouterr().out
    assert main([*command, "--device", "cpu", "--json", str(tmp_path / "v.json")]) == 0
    capsys.readouterr()
    assert [r["count"] for r in json.loads((tmp_path / "v.json").read_text())["results"]] == [8, 4]
    assert "image and dialogue to answer" in told
    assert "NDCG" in told
    assert "dialogue to image" in told
    assert main([*command, "--device", "cpu", "--only", "images", "--reference-compat"]) == 0
    assert "NDCG" not in capsys.readouterr().out


def test_captions(tmp_path: Path, bundle: str, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_tsv(tmp_path / "w", 9, broken=(2,))
    assert main(["eval", "captions", str(data), "--bundle", bundle, "--device", "cpu"]) == 0
    told = capsys.readouterr().out
    assert "1 pairs left out" in told
    assert all(name in told for name in ("CIDEr", "BLEU-4", "perplexity", "caption to image"))


def test_quantized(tmp_path: Path, bundle: str) -> None:
    pytest.importorskip("torchao")
    data = write_tsv(tmp_path / "w", 9)
    found = {}
    for quantize in ("none", "int8"):
        out = tmp_path / f"{quantize}.json"
        more = ["--quantize", quantize, "--device", "cpu", "--json", str(out)]
        assert main(["eval", "captions", str(data), "--bundle", bundle, *more]) == 0
        found[quantize] = json.loads(out.read_text())
        assert found[quantize]["quantize"] == quantize
    one, other = (f["results"][0]["figures"]["perplexity"] for f in found.values())
    assert one != other
    assert one == pytest.approx(other, rel=0.2)


def test_wrong_files_say_so(
    tmp_path: Path, bundle: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write_vist(tmp_path, 2)
    (tmp_path / "empty").mkdir()
    images = ["--images", str(tmp_path / "empty"), "--device", "cpu"]
    assert main(["eval", "vist", str(file), "--bundle", bundle, *images]) == 1
    assert "none of its images are in the folder" in capsys.readouterr().err
    assert main(["eval", "visdial", str(file), "--bundle", bundle, *images]) == 1
    assert "not a VisDial 1.0 file" in capsys.readouterr().err


def test_dialogues_without_options_have_images_only(
    tmp_path: Path, bundle: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file, _ = write_visdial(tmp_path, 3, options=0)
    images = ["--images", str(tmp_path / "pictures"), "--device", "cpu"]
    command = ["eval", "visdial", str(file), "--bundle", bundle, *images]
    assert main(command) == 1
    assert "--only images works without" in capsys.readouterr().err
    assert main([*command, "--only", "images"]) == 0
