"""`fromage index`, from the shell's side, over the recorded checkpoint."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from fromage_index.collection import Collection
from fromage_server.cli import main


@pytest.fixture(scope="module")
def bundle(reference: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    source, out = reference / "variant_a", tmp_path_factory.mktemp("bundle") / "bundle"
    arguments = ["--lm", str(source / "hub"), "--vision", str(source / "open_clip")]
    assert main(["weights", "import", str(source / "model_dir"), str(out), *arguments]) == 0
    return out


def test_build(
    bundle: Path, reference: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = tmp_path / "folder", tmp_path / "out"
    folder.mkdir()
    names = [f"img_{number:03}.png" for number in range(12)]
    for name in names:
        (folder / name).write_bytes((reference / "images" / name).read_bytes())
    command = ["index", "build", str(folder), "--collection", str(out), "--bundle", str(bundle)]
    assert main([*command, "--batch-size", "5", "--device", "cpu"]) == 0
    printed = capsys.readouterr()
    assert "11 images" in printed.out
    assert "1 could not be read" in printed.out
    assert "12/12" in printed.err
    assert (out / "unreadable.log").read_text().startswith("img_008.png\t")

    collection = Collection.open(out)
    arrays = load_file(reference / "variant_a" / "arrays.safetensors")
    keys = [collection.image(name).key for name in collection.ids]
    assert keys == [name for name in names if name != "img_008.png"]
    scale = np.linalg.norm(arrays["emb_matrix"][0])
    for row, key in enumerate(keys):
        query = arrays["emb_matrix"][names.index(key)][None] / scale
        (hit,) = collection.search(query, 1)[0]
        assert hit.score == pytest.approx(1.0, abs=1e-5), key
        assert hit.row == row

    assert main(command) == 1
    assert "--overwrite" in capsys.readouterr().err
    assert main([*command, "--overwrite", "--copy"]) == 0
    assert main(["index", "info", str(out)]) == 0
    info = capsys.readouterr().out
    assert "in the collection" in info
    assert "every checksum right" in info
    (images,) = out.glob("*images.bin")
    images.write_bytes(images.read_bytes()[::-1])
    assert main(["index", "info", str(out)]) == 1
    assert images.name in capsys.readouterr().err


def test_import_reference(
    bundle: Path, reference: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = reference / "variant_a" / "model_dir"
    command = ["index", "import-reference", str(model), "--bundle", str(bundle)]
    out = tmp_path / "out"
    assert main([*command, "--collection", str(out), "--images", str(reference / "images")]) == 0
    assert "200 images" in capsys.readouterr().out
    assert Collection.open(out).size == 200
    assert main([*command, "--collection", str(tmp_path / "bare")]) == 0
    assert "--images ROOT" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (["index"], 2),
        (["index", "build", "x", "--collection", "y"], 2),
        (["index", "build", "x", "--collection", "y", "--bundle", "z", "--batch-size", "0"], 2),
        (["index", "info", "nowhere"], 1),
    ],
)
def test_wrong_usage(arguments: list[str], status: int, capsys: pytest.CaptureFixture[str]) -> None:
    if status == 2:
        with pytest.raises(SystemExit) as caught:
            main(arguments)
        assert caught.value.code == 2
    else:
        assert main(arguments) == status
    assert capsys.readouterr().err
