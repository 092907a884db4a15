"""The compose files and the Dockerfile, read as the tools read them."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from fromage_server.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
RESET_SINCE = (2, 18)


def load(name: str) -> Any:
    """The service as written; compose's own tag reads as a word."""
    text = (ROOT / name).read_text().replace("!reset null", "reset")
    return yaml.safe_load(text)["services"]["server"]


def config(no_env: Path, *files: str, **env: str) -> Any:
    """What `docker-compose config` makes of the files; skips without a docker-compose for them."""
    tool = shutil.which("docker-compose")
    if tool is None:
        pytest.skip("docker-compose is not installed")
    said = subprocess.run([tool, "version", "--short"], capture_output=True, text=True, check=True)
    version = tuple(map(int, re.findall(r"\d+", said.stdout)[:2]))
    if len(files) > 1 and version < RESET_SINCE:
        pytest.skip(f"docker-compose {said.stdout.strip()} has no !reset")
    flags = [flag for file in files for flag in ("-f", str(ROOT / file))]
    done = subprocess.run(
        [tool, *flags, "--env-file", str(no_env), "config"],
        cwd=ROOT,
        env={"PATH": str(Path(tool).parent), "HOME": "/nonexistent", **env},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return yaml.safe_load(done.stdout)["services"]["server"]


@pytest.fixture
def no_env(tmp_path: Path) -> Path:
    """An empty .env in place of one that may lie in the checkout."""
    path = tmp_path / "env"
    path.touch()
    return path


def test_the_demo_runs_on_a_gpu() -> None:
    server = load("docker-compose.yml")
    [device] = server["deploy"]["resources"]["reservations"]["devices"]
    assert device == {"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}
    assert server["build"]["args"]["EXTRAS"] == "demo,gpu,quantize"
    assert server["environment"]["FROMAGE_BUNDLE"] == "${FROMAGE_BUNDLE:-}"


def test_without_a_gpu() -> None:
    server = load("docker-compose.cpu.yml")
    assert server["deploy"] == "reset"
    assert server["build"]["args"]["EXTRAS"] == "demo,cpu,quantize"
    assert server["environment"]["FROMAGE_DEVICE"] == "cpu"


def test_every_variable_is_a_setting() -> None:
    names = set(load("docker-compose.yml")["environment"]) - {"HF_TOKEN"}
    text = (ROOT / "Dockerfile").read_text() + (ROOT / ".env.example").read_text()
    names |= set(re.findall(r"\b(FROMAGE_[A-Z_]+)=", text))
    assert {name.removeprefix("FROMAGE_").lower() for name in names} <= set(Settings.model_fields)


def test_every_variable_of_the_example_is_used() -> None:
    offered = set(re.findall(r"^#([A-Z_]+)=", (ROOT / ".env.example").read_text(), re.MULTILINE))
    used = set(re.findall(r"\$\{([A-Z_]+):-", (ROOT / "docker-compose.yml").read_text()))
    assert offered | {"FROMAGE_DEVICE"} == used


def test_the_compose_file_is_valid(no_env: Path) -> None:
    server = config(no_env, "docker-compose.yml")
    assert server["deploy"]["resources"]["reservations"]["devices"][0]["driver"] == "nvidia"


def test_the_override_takes_the_gpu_away(no_env: Path) -> None:
    server = config(no_env, "docker-compose.yml", "docker-compose.cpu.yml")
    assert "deploy" not in server
    assert server["build"]["args"]["EXTRAS"] == "demo,cpu,quantize"


def test_env_switches_to_the_real_model(no_env: Path, tmp_path: Path) -> None:
    env = {"FROMAGE_BUNDLE": "/data/fromage", "FROMAGE_IMAGES": "photos=/images"}
    server = config(no_env, "docker-compose.yml", IMAGES_FOLDER=str(tmp_path), **env)
    assert server["environment"].items() >= env.items()
    mounts = [str(mount) for mount in server["volumes"]]
    assert any(str(tmp_path) in mount and "/images" in mount for mount in mounts)


def test_the_image_is_what_the_compose_file_expects() -> None:
    text = (ROOT / "Dockerfile").read_text()
    assert re.search(r"^USER fromage$", text, re.MULTILINE)
    assert re.search(r"^VOLUME /cache$", text, re.MULTILINE)
    assert "HEALTHCHECK" in text
    assert "/readyz" in text
    assert 'CMD ["serve"]' in text
