"""Where a reader of a page sits: a folder with pictures and a bundle, and a server."""

import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from fromage_weights.loading import DEMO, bundle_directory
from tests.clients.web import world
from tests.conftest import ROOT
from tests.docs import warm
from tests.server.process import free_port, wait_for

PROGRAMS = Path(sys.executable).parent
_ADDRESSES = ("localhost:8000", "127.0.0.1:8000")
# In the checkout, with what is installed already.
_MAKE = f"""#!/bin/sh
exec /usr/bin/make -C {shlex.quote(str(ROOT))} VENV={shlex.quote(str(PROGRAMS.parent))} \
  -o {shlex.quote(str(PROGRAMS.parent / ".serve"))} "$@"
"""
# All but servers are run by the process behind the socket, which has imported everything.
_FROMAGE = f"""#!/bin/sh
[ "$1" = serve ] && exec {shlex.quote(str(PROGRAMS / "fromage"))} "$@"
exec {shlex.quote(sys.executable)} -S {shlex.quote(warm.__file__)} "${warm.VARIABLE}" "$@"
"""
_CURL = "silent\nshow-error\nfail-with-body\n"
SERVERS = (["make", "serve"], ["fromage", "serve"])
SECONDS = 300


@dataclass
class Desk:
    """`demo` is the address of the server that a bare `make serve` or `fromage serve` has started;
    other servers that a page starts are this desk's own, one at a time. `socket` leads to the
    process that runs other `fromage` commands."""

    folder: Path
    demo: str
    socket: str
    address: str = field(init=False)
    _server: subprocess.Popen[str] | None = None

    def __post_init__(self) -> None:
        self.address = self.demo
        furnish(self.folder)

    def run(self, command: str) -> str:
        """What it prints. Raises AssertionError where it fails."""
        words = shlex.split(command, comments=True)
        if words[:2] in SERVERS and "--plan" not in words:
            self._serve(command, words[2:])
            return ""
        for address in _ADDRESSES:
            command = command.replace(address, self.address.removeprefix("http://"))
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", command],
            cwd=self.folder,
            env=environment(
                self.folder, FROMAGE_SERVER=self.address, **{warm.VARIABLE: self.socket}
            ),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=SECONDS,
            check=False,
        )
        said = done.stdout.decode(errors="replace")
        assert done.returncode == 0, f"{command}\nended with {done.returncode}: {said}"
        return said

    def close(self) -> None:
        """Ends the desk's own server."""
        if self._server is not None:
            end(self._server)
        self._server, self.address = None, self.demo

    def _serve(self, command: str, options: list[str]) -> None:
        self.close()
        if options:
            self._server, self.address = launch(command, self.folder)
            wait_for(self._server, self.address, "/readyz", SECONDS)


def furnish(folder: Path) -> None:
    """What pages take for granted: pictures, the imported model, installed programs."""
    world.write_folder(folder / "Pictures")
    item = world.sent_picture()
    (folder / "new").mkdir()
    for name in ("beach.jpg", "cat.jpg", "new/one.jpg", "Pictures/beach.jpg"):
        (folder / name).write_bytes(item.image)
    lines = (folder / "Pictures" / "metadata.jsonl").read_text(encoding="utf-8")
    beach = json.dumps({"file_name": "beach.jpg", "year": 2024})
    (folder / "Pictures" / "metadata.jsonl").write_text(f"{lines}\n{beach}", encoding="utf-8")
    (folder / "fromage-bundle").symlink_to(bundle_directory(DEMO))
    (folder / ".venv").symlink_to(PROGRAMS.parent)
    (folder / ".curlrc").write_text(_CURL)
    (folder / "bin").mkdir()
    for name, script in (("make", _MAKE), ("fromage", _FROMAGE)):
        (folder / "bin" / name).write_text(script)
        (folder / "bin" / name).chmod(0o755)


def environment(home: Path, **changes: str) -> dict[str, str]:
    """This process's, at home in `home`, without settings that somebody's shell may hold, nor those
    of the make that runs the tests."""
    others = ("FROMAGE_", "MAKE", "MFLAGS", "ARGS")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(others)}
    return {
        **kept,
        "HOME": str(home),
        "XDG_CACHE_HOME": str(home / ".cache"),
        "PATH": f"{home / 'bin'}:{PROGRAMS}:{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
        **changes,
    }


def launch(command: str, home: Path, **env: str) -> tuple[subprocess.Popen[str], str]:
    """A command that serves until it is ended, and its address, where nothing may listen yet."""
    port = free_port()
    serving = {"FROMAGE_PORT": str(port), "FROMAGE_DEVICE": "cpu", **env}
    with (home / f"server-{port}.log").open("w") as log:
        process = subprocess.Popen(
            ["bash", "-c", command],
            cwd=home,
            env=environment(home, **serving),
            stdout=log,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
    return process, f"http://127.0.0.1:{port}"


def end(process: subprocess.Popen[str]) -> None:
    """With what it has started."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGTERM)
    process.wait(timeout=60)


@contextmanager
def demo_server(home: Path, command: str) -> Iterator[str]:
    """The demo model's, with a few of its pictures: drawing all of them takes a minute."""
    furnish(home)
    process, url = launch(command, home, FROMAGE_IMAGES=f"demo={home / 'Pictures'}")
    try:
        wait_for(process, url, "/readyz", SECONDS)
        yield url
    finally:
        end(process)


@contextmanager
def warm_process() -> Iterator[str]:
    """Its socket, once it listens."""
    with tempfile.TemporaryDirectory(prefix="warm") as folder:
        address = Path(folder) / "socket"
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.docs.warm", str(address)], cwd=ROOT, env=environment(ROOT)
        )
        try:
            while not address.exists():
                assert process.poll() is None, f"it ended with {process.returncode}"
                time.sleep(0.05)
            yield str(address)
        finally:
            process.terminate()
            process.wait(timeout=60)
