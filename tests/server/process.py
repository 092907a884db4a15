"""A real server in a process of its own."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx

COMMAND = str(Path(sys.executable).with_name("fromage"))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def environment(cache: Path, **changes: str) -> dict[str, str]:
    """This process's, without settings that somebody's shell may hold."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("FROMAGE_")}
    return {**kept, "OMP_NUM_THREADS": "1", "FROMAGE_CACHE_DIR": str(cache), **changes}


@contextmanager
def start(
    cache: Path, *flags: str, program: Sequence[str] = (COMMAND,), **env: str
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The process and its address, at once; it may not listen yet."""
    port = free_port()
    with (cache / f"server-{port}.log").open("w") as log:
        process = subprocess.Popen(
            [*program, "serve", "--port", str(port), "--device", "cpu", *flags],
            env=environment(cache, **env),
            stdout=log,
            stderr=subprocess.STDOUT,
            text=True,
        )
        try:
            yield process, f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(timeout=60)


def wait_for(process: subprocess.Popen[str], url: str, path: str, seconds: float = 300) -> None:
    """Until the path answers 200."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        assert process.poll() is None, f"the server ended with {process.returncode}"
        try:
            if httpx.get(url + path, timeout=5).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    raise AssertionError(f"{url}{path} did not answer 200 within {seconds} s")


@contextmanager
def serving(cache: Path, *flags: str, **env: str) -> Iterator[httpx.Client]:
    """A client of a server that is ready."""
    with start(cache, *flags, **env) as (process, url):
        wait_for(process, url, "/readyz")
        with httpx.Client(base_url=url, timeout=60) as client:
            yield client
