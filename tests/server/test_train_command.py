"""`fromage train` from a stranger's side: 200 pictures, a bundle, an index, a chat."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from fromage_server.cli import main
from fromage_weights.bundle import Bundle
from tests.server.process import COMMAND, free_port, serving
from tests.weights.training.world import write_tars, write_world

QUICK = ["--steps", "40", "--batch", "20", "--warmup", "5", "--max-length", "40", "--device", "cpu"]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_world(tmp_path_factory.mktemp("world"), 200, broken=(11,))


def arguments(world: dict[str, Path], out: Path) -> list[str]:
    frozen = ["--lm", str(world["lm"]), "--vision", str(world["vision"])]
    return ["train", str(world["data"]), *frozen, "--out", str(out), *QUICK]


def test_two_hundred_pictures_to_a_chat(
    world: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "mine"
    more = ["--validation", "30", "--validate-every", "20", "--dialogue", "0.5", "--tensorboard"]
    assert main([*arguments(world, out), *more]) == 0
    told = capsys.readouterr()
    assert f"bundle written to {out}" in told.out
    assert "1 pairs were left out, e.g. images/11.png" in told.err
    assert "step 40: caption loss" in told.err
    assert "R@10" in told.err
    losses = [json.loads(line) for line in (out / "losses.jsonl").read_text().splitlines()]
    assert [row["step"] for row in losses] == list(range(1, 41))
    # What can be learnt so soon: a language model of random weights has little use for an image.
    for name in ("text_to_image", "image_to_text"):
        first, last = (sum(row[name] for row in part) for part in (losses[:10], losses[-10:]))
        assert last < 0.97 * first
    assert Bundle.load(out).config.stop_after_ret, "what follows a picture was never learnt"
    events = (out / "tensorboard").glob("events*")
    assert b"retrieval/0" in b"".join(file.read_bytes() for file in events)

    collection = tmp_path / "collection"
    images = str(world["data"].parent / "images")
    build = ["index", "build", images, "--collection", str(collection), "--bundle", str(out)]
    assert main([*build, "--device", "cpu"]) == 0
    with serving(tmp_path, "--bundle", str(out), "--collection", f"mine={collection}") as client:
        found = client.post("/v1/retrieve", json={"prompt": "a box on red", "k": 3}).json()
        assert len(found["images"]) == 3
        chat = {"messages": [{"role": "user", "content": "a disc on blue"}], "max_tokens": 8}
        answer = client.post("/v1/chat", json=chat)
        assert answer.status_code == 200, answer.text
        assert answer.json()["finish_reason"] in ("stop", "length")


def test_the_same_command_goes_on(
    world: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(arguments(world, out)) == 0
    first = Bundle.load(out)
    capsys.readouterr()
    assert main([*arguments(world, out), "--steps", "44"]) == 0
    assert "goes on from step 40" in capsys.readouterr().err
    assert Bundle.load(out).hash != first.hash
    assert main([*arguments(world, out), "--steps", "44", "--batch", "10"]) == 1
    assert "batch was 20, now 10" in capsys.readouterr().err


def test_going_on_from_a_bundle_with_other_data(
    world: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    assert main([*arguments(world, first), "--visual-tokens", "2"]) == 0
    tars = write_tars(tmp_path / "tars", 60)
    command = ["train", str(tars), "--bundle", str(first), "--out", str(second), *QUICK]
    assert main(command) == 0
    made = Bundle.load(second).config
    assert (made.n_visual_tokens, made.lm.hash) == (2, Bundle.load(first).config.lm.hash)
    assert made.chat_template == Bundle.load(first).config.chat_template
    with pytest.raises(SystemExit):
        main([*command, "--shared-dim", "32"])
    assert "--shared-dim: those of --bundle's mappers stay" in capsys.readouterr().err
    assert main([command[0], str(world["data"]), *command[2:4], "--out", str(first), *QUICK]) == 1
    assert "bundle gone on from was none, now" in capsys.readouterr().err


def test_a_bundle_whose_frozen_models_have_changed(
    world: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lm, out = tmp_path / "lm", tmp_path / "out"
    shutil.copytree(world["lm"], lm)
    own = {**world, "lm": lm}
    assert main([*arguments(own, out), "--steps", "2"]) == 0
    changed: Any = AutoModelForCausalLM.from_pretrained(lm)
    with torch.no_grad():
        changed.get_input_embeddings().weight.mul_(2)
    changed.save_pretrained(lm)
    capsys.readouterr()
    again = [
        "train",
        str(world["data"]),
        "--bundle",
        str(out),
        "--out",
        str(tmp_path / "o"),
        *QUICK,
    ]
    assert main(again) == 1
    told = capsys.readouterr().err
    assert "made for another language model" in told
    assert Bundle.load(out).config.lm.hash in told
    assert main([*arguments(own, out), "--steps", "4"]) == 1
    assert "language model was" in capsys.readouterr().err


def test_a_damaged_checkpoint_can_be_removed(
    world: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As its message says."""
    out = tmp_path / "out"
    assert main([*arguments(world, out), "--steps", "2"]) == 0
    checkpoint = out / "checkpoint.pt"
    checkpoint.write_bytes(checkpoint.read_bytes()[:-99])
    capsys.readouterr()
    assert main([*arguments(world, out), "--steps", "2"]) == 1
    assert "remove it to begin anew" in capsys.readouterr().err
    checkpoint.unlink()
    assert main([*arguments(world, out), "--steps", "2"]) == 0
    assert len((out / "losses.jsonl").read_text().splitlines()) == 2


def test_a_bundle_that_was_not_trained_there_stays(
    world: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main([*arguments(world, out), "--steps", "2"]) == 0
    for name in ("checkpoint.pt", "losses.jsonl"):
        (out / name).unlink()
    before = (out / "bundle.json").read_bytes()
    assert main(arguments(world, out)) == 1
    assert "holds a bundle that was not trained there" in capsys.readouterr().err
    assert (out / "bundle.json").read_bytes() == before


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--steps", "0"], "--steps"),
        (["--save-every", "0"], "--save-every"),
        (["--learning-rate", "nan"], "--learning-rate"),
        (["--concatenate", "7"], "from 0 to 1"),
        (["--max-length", "2"], "from 3 on"),
        (["--visual-tokens", "0"], "--visual-tokens"),
    ],
)
def test_numbers_that_cannot_be(
    world: dict[str, Path], more: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main([*arguments(world, Path("never")), *more])
    assert told in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--lm", "/nowhere/at/all"], "language model /nowhere/at/all: no such directory"),
        (["--batch", "300"], "try --batch 200"),
        (["--visual-tokens", "100"], "more than the 256 positions"),
        (["--text-emb-layers", "9"], "text_emb_layers has 9"),
    ],
)
def test_what_is_wrong_is_said_before_the_features_are_made(
    world: dict[str, Path],
    tmp_path: Path,
    more: list[str],
    told: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main([*arguments(world, tmp_path / "out"), *more]) == 1
    assert told in capsys.readouterr().err
    assert not (tmp_path / "out" / "features").exists()


def test_a_place_that_cannot_be_written(
    world: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert main(arguments(world, tmp_path / "file" / "out")) == 1
    assert "Not a directory" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["nothing.tsv", "--out", "o", "--lm", "x", "--vision", "y"], "nothing.tsv"),
        ([str(Path(__file__).parent), "--out", "o"], "expected a .tsv file"),
    ],
)
def test_wrong_usage(arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", *arguments]) == 1
    assert told in capsys.readouterr().err


def test_the_frozen_pair_has_to_be_named(
    world: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", str(world["data"]), "--out", str(tmp_path / "o")]) == 1
    assert "--lm and --vision" in capsys.readouterr().err


@pytest.mark.slow
def test_torchrun_with_two_processes(world: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "two"
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    place = ["--master-addr", "127.0.0.1", "--master-port", str(free_port()), "--no-python"]
    command = [*torchrun, *place, COMMAND, *arguments(world, out)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("bundle written to") == 1
    assert Bundle.load(out).config.shared_dim == 256
