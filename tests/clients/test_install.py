"""The client alone, as somebody who only calls a server installs it."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.clients.scripted import ScriptedServer, reply_stream
from tests.conftest import ROOT

DISTRIBUTIONS = {"anyio", "certifi", "fromage-client", "h11", "httpcore", "httpx", "idna"}
PROGRAM = """
import sys
from fromage_client import Client, fold
with Client(sys.argv[1]) as client:
    print(fold(client.stream("hi")).text)
"""
LIST = "import importlib.metadata as m; print(*(d.name.lower() for d in m.distributions()))"


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment with the client and what it brought."""
    home = tmp_path_factory.mktemp("fresh") / "venv"
    run = [sys.executable, "-m"]
    subprocess.run([*run, "venv", "--without-pip", str(home)], check=True)
    python = home / "bin" / "python"
    install = [*run, "pip", "--python", str(python), "install", "-q", "-c"]
    files = [str(ROOT / "constraints.txt"), str(ROOT / "clients" / "python")]
    subprocess.run([*install, *files], check=True, timeout=300)
    return python


def output(python: Path, *arguments: str) -> str:
    """What an isolated run of the interpreter prints: no PYTHONPATH, no current folder."""
    done = subprocess.run(
        [str(python), "-I", *arguments], capture_output=True, text=True, check=True, timeout=60
    )
    return done.stdout


def test_it_brings_httpx_and_nothing_else(python: Path) -> None:
    installed = set(output(python, "-c", LIST).split())
    # Python 3.11 has anyio need it; 3.13 doesn't.
    assert installed - {"typing_extensions"} == DISTRIBUTIONS


def test_it_works_there(python: Path, scripted: ScriptedServer) -> None:
    scripted.script["/v1/chat"] = [reply_stream("hello")]
    assert output(python, "-c", PROGRAM, scripted.url) == "hello\n"
    assert "--max-tokens" in output(python, "-m", "fromage_client", "--help")
