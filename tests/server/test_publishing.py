"""`fromage weights push` and `pull`, against a hub on this machine."""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from fromage_weights.bundle import Bundle
from fromage_weights.loading import load_grounded_model
from tests.server.process import COMMAND
from tests.weights.hub import Hub, running_hub
from tests.weights.tiny_bundle import write_bundle

NAME = "me/tiny"


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    with running_hub() as found:
        yield found


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    path = tmp_path / "mine"
    write_bundle(path)
    (path / "checkpoint.pt").write_bytes(b"not part of a bundle")
    return path


def run(hub: Hub, tmp_path: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "HF_ENDPOINT": hub.url,
        "HF_TOKEN": "hf_test",
        "HF_HOME": str(tmp_path / "hf"),
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
    command = [COMMAND, "weights", *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)


def name_elsewhere(bundle: Path, lm: Path) -> None:
    """As `fromage train` does where the language model is a directory."""
    config = json.loads((bundle / "bundle.json").read_text())
    config["lm"] = {"id": str(lm), "hash": config["lm"]["hash"]}
    (bundle / "bundle.json").write_text(json.dumps(config))


def test_there_and_back(hub: Hub, bundle: Path, tmp_path: Path) -> None:
    pushed = run(hub, tmp_path, "push", bundle, NAME, "--private")
    assert pushed.returncode == 0, pushed.stderr
    assert pushed.stdout.strip() == f"{hub.url}/{NAME}"
    held = hub.files[NAME]
    assert hub.private[NAME]
    assert {"bundle.json", "mappers.safetensors", "README.md"} <= set(held)
    assert "checkpoint.pt" not in held
    assert any(name.startswith("lm/") for name in held)
    card = held["README.md"].decode()
    assert "fromage weights pull me/tiny" in card
    assert Bundle.load(bundle).config.lm.hash in card

    out = tmp_path / "theirs"
    pulled = run(hub, tmp_path, "pull", NAME, out)
    assert pulled.returncode == 0, pulled.stderr
    assert f"bundle written to {out}" in pulled.stdout
    assert Bundle.load(out).hash == Bundle.load(bundle).hash
    for file in (f for f in bundle.rglob("*") if f.is_file() and f.name != "checkpoint.pt"):
        assert (out / file.relative_to(bundle)).read_bytes() == file.read_bytes(), file


@pytest.mark.slow
def test_ones_own_card_is_kept(hub: Hub, bundle: Path, tmp_path: Path) -> None:
    (bundle / "README.md").write_text("# mine\n")
    assert run(hub, tmp_path, "push", bundle, "me/carded").returncode == 0
    assert hub.files["me/carded"]["README.md"] == b"# mine\n"
    (tmp_path / "other.md").write_text("# other\n")
    more = ("--card", tmp_path / "other.md")
    assert run(hub, tmp_path, "push", bundle, "me/carded", *more).returncode == 0
    assert hub.files["me/carded"]["README.md"] == b"# other\n"


@pytest.mark.slow
def test_a_damaged_download_is_refused(hub: Hub, bundle: Path, tmp_path: Path) -> None:
    assert run(hub, tmp_path, "push", bundle, "me/damaged").returncode == 0
    held = hub.files["me/damaged"]
    good = held["lm/model.safetensors"]
    held["lm/model.safetensors"] = good[:-4] + b"\0\0\0\1"
    pulled = run(hub, tmp_path, "pull", "me/damaged", tmp_path / "out")
    assert pulled.returncode == 1
    assert "SHA-256" in pulled.stderr


def test_models_that_only_lie_here_are_not_published(
    hub: Hub, bundle: Path, tmp_path: Path
) -> None:
    name_elsewhere(bundle, bundle / "lm")
    pushed = run(hub, tmp_path, "push", bundle, "me/local")
    assert pushed.returncode == 1
    assert "which nobody else has" in pushed.stderr
    assert "me/local" not in hub.files


def test_models_that_only_lie_here_can_travel_along(hub: Hub, bundle: Path, tmp_path: Path) -> None:
    """The bundle here still names the directory; what was pulled names what came with it."""
    elsewhere = tmp_path / "language"
    (bundle / "lm").rename(elsewhere)
    (elsewhere / ".cache").mkdir()
    (elsewhere / ".cache" / "notes").write_text("of a download")
    name_elsewhere(bundle, elsewhere)
    before = (bundle / "bundle.json").read_bytes()
    pushed = run(hub, tmp_path, "push", bundle, "me/along", "--with-models")
    assert pushed.returncode == 0, pushed.stderr
    assert (bundle / "bundle.json").read_bytes() == before
    pulled = run(hub, tmp_path, "pull", "me/along", tmp_path / "theirs")
    assert pulled.returncode == 0, pulled.stderr
    names = {file.name for file in elsewhere.iterdir() if file.is_file()}
    assert {file.name for file in (tmp_path / "theirs" / "lm").iterdir()} == names
    elsewhere.rename(tmp_path / "gone")
    assert load_grounded_model(tmp_path / "theirs", device="cpu").model.ret_token_id
    again = run(hub, tmp_path, "push", bundle, "me/again", "--with-models")
    assert again.returncode == 1
    assert "no files in" in again.stderr


def test_a_model_inside_travels_where_its_files_are_not_listed(
    hub: Hub, bundle: Path, tmp_path: Path
) -> None:
    config = json.loads((bundle / "bundle.json").read_text())
    config["lm"]["files"] = {}
    (bundle / "bundle.json").write_text(json.dumps(config))
    pushed = run(hub, tmp_path, "push", bundle, "me/unlisted")
    assert pushed.returncode == 0, pushed.stderr
    assert json.loads(hub.files["me/unlisted"]["bundle.json"])["lm"]["files"]
    assert "lm/model.safetensors" in hub.files["me/unlisted"]


def test_a_model_elsewhere_in_the_bundle_is_refused(hub: Hub, bundle: Path, tmp_path: Path) -> None:
    (bundle / "lm").rename(bundle / "language")
    text = (bundle / "bundle.json").read_text().replace('"./lm"', '"./language"')
    (bundle / "bundle.json").write_text(text)
    pushed = run(hub, tmp_path, "push", bundle, "me/elsewhere")
    assert pushed.returncode == 1
    assert "lie in ./lm and ./vision" in pushed.stderr


@pytest.mark.slow
def test_what_stands_in_the_way_is_told(hub: Hub, bundle: Path, tmp_path: Path) -> None:
    card = run(hub, tmp_path, "push", bundle, "me/x", "--card", tmp_path / "none.md")
    assert card.returncode == 1
    assert "none.md" in card.stderr
    assert "Traceback" not in card.stderr
    pulled = run(hub, tmp_path, "pull", NAME, bundle)
    assert pulled.returncode == 1
    assert "is there already" in pulled.stderr


@pytest.mark.slow
def test_what_the_hub_says_is_told(hub: Hub, bundle: Path, tmp_path: Path) -> None:
    missing = run(hub, tmp_path, "pull", "me/nothing", tmp_path / "out")
    assert missing.returncode == 1
    assert missing.stderr.startswith("fromage: me/nothing: ")
    wrong = run(hub, tmp_path, "pull", "a/b/c", tmp_path / "out")
    assert wrong.returncode == 1
    assert "Traceback" not in wrong.stderr
    hub.refuses = 403
    try:
        refused = run(hub, tmp_path, "push", bundle, "you/tiny")
    finally:
        hub.refuses = None
    assert refused.returncode == 1
    assert refused.stderr.startswith("fromage: you/tiny: ")
