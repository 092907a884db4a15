"""`fromage serve` with a language model divided between processes."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from fromage_server.errors import SettingsError, StartupError
from fromage_server.followers import Followers
from fromage_server.ranks import Place, place_of
from fromage_server.settings import Settings
from tests.server.process import environment, free_port, start, wait_for

NO_GPU = {"CUDA_VISIBLE_DEVICES": ""}
TORCHRUN = {
    "RANK": "1",
    "LOCAL_RANK": "1",
    "WORLD_SIZE": "2",
    "MASTER_ADDR": "127.0.0.1",
    "MASTER_PORT": "29500",
}


def test_place() -> None:
    assert place_of(Settings(), {}).is_alone
    assert place_of(Settings(tensor_parallel=4), {}) == Place(0, 4, 0)
    under_torchrun = Place(1, 2, 1, torchrun=True)
    assert place_of(Settings(), TORCHRUN) == under_torchrun
    assert place_of(Settings(tensor_parallel=2), TORCHRUN) == under_torchrun
    with pytest.raises(SettingsError, match=r"tensor_parallel = 4: torchrun has started 2 proc"):
        place_of(Settings(tensor_parallel=4), TORCHRUN)
    with pytest.raises(SettingsError, match=r"device = 'cuda:1': with tensor_parallel 2 it is"):
        place_of(Settings(tensor_parallel=2, device="cuda:1"), {})
    with pytest.raises(SettingsError, match="quantize = 'int8': with tensor_parallel 2 it is"):
        place_of(Settings(quantize="int8"), TORCHRUN)


@pytest.mark.slow
def test_one_command_and_the_end_of_a_rank(tiny_bundle: Path, tmp_path: Path) -> None:
    """A killed follower ends the engine, which says so; the leader still stops when told."""
    flags = ("--bundle", str(tiny_bundle), "--tensor-parallel", "2")
    with start(tmp_path, *flags, **NO_GPU) as (process, url):
        wait_for(process, url, "/readyz")
        reply = chat(url)
        assert reply.status_code == 200
        assert reply.json()["usage"]["completion_tokens"] == 12
        (follower,) = children(process.pid)
        os.kill(follower, signal.SIGKILL)
        until(lambda: httpx.get(f"{url}/healthz").status_code == 503)
        assert chat(url).json()["error"]["code"] == "engine_dead"
    assert process.returncode in (0, -signal.SIGTERM)
    (log,) = tmp_path.glob("server-*.log")
    assert f"rank 1, process {follower}, ended with -9" in log.read_text()


def test_a_rank_that_does_not_come(tiny_bundle: Path, tmp_path: Path) -> None:
    flags = ("--bundle", str(tiny_bundle), "--tensor-parallel", "2")
    with start(tmp_path, *flags, **NO_GPU) as (process, _):
        until(lambda: bool(children(process.pid)))
        (follower,) = children(process.pid)
        os.kill(follower, signal.SIGKILL)
        assert process.wait(timeout=120) == 1
    (log,) = tmp_path.glob("server-*.log")
    assert f"fromage: rank 1, process {follower}, ended with -9" in log.read_text()


def test_a_rank_that_ends_before_it_is_told_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    started = subprocess.Popen

    def ended(*args: Any, **kwargs: Any) -> subprocess.Popen[str]:
        process = started(*args, **kwargs)
        process.kill()
        process.wait()
        return process

    monkeypatch.setattr("fromage_server.followers.subprocess.Popen", ended)
    with Followers(Settings(bundle="./none", device="cpu"), Place(0, 2, 0)) as followers:
        lost: list[str] = []
        followers.watch(lost.append)
        until(lambda: bool(lost))
        with pytest.raises(StartupError, match=r"rank 1, process \d+, ended with -9"):
            followers.check()


def test_a_leader_that_waits_in_vain() -> None:
    """Nothing interrupts a thread that waits for another process's numbers; the process ends."""
    code = """
import time
from fromage_server.followers import Followers
from fromage_server.ranks import Place
from fromage_server.settings import Settings

with Followers(Settings(bundle="./none", device="cpu"), Place(0, 2, 0)):
    time.sleep(600)
"""
    command = [sys.executable, "-c", code]
    leader = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        until(lambda: bool(children(leader.pid)))
        os.kill(children(leader.pid)[0], signal.SIGKILL)
        told = leader.communicate(timeout=120)[1]
    finally:
        leader.kill()
    assert leader.returncode == 1
    assert "fromage: rank 1, process" in told


@pytest.mark.slow
def test_under_torchrun(tiny_bundle: Path, tmp_path: Path) -> None:
    """Its status is 0 only where all ranks ended with 0."""
    port = free_port()
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    serve = ["serve", "--device", "cpu", "--port", str(port), "--bundle", str(tiny_bundle)]
    with (tmp_path / "log").open("w") as log:
        agent = subprocess.Popen(
            [*torchrun, "--standalone", "-m", "fromage_server", *serve],
            env=environment(tmp_path, **NO_GPU),
            stdout=log,
            stderr=log,
            text=True,
        )
    try:
        url = f"http://127.0.0.1:{port}"
        wait_for(agent, url, "/readyz")
        assert chat(url).status_code == 200
        for rank in children(agent.pid):  # as a terminal's Ctrl-C would
            os.kill(rank, signal.SIGINT)
        assert agent.wait(timeout=120) == 0
    finally:
        agent.kill()


def chat(url: str) -> httpx.Response:
    asked = {"messages": [{"role": "user", "content": "a"}], "max_tokens": 12, "stop": []}
    return httpx.post(f"{url}/v1/chat", json={**asked, "ignore_eos": True}, timeout=60)


def children(pid: int) -> list[int]:
    found: list[int] = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has just ended
            parent = stat.read_text().rpartition(")")[2].split()[1]
            found += [int(stat.parent.name)] * (int(parent) == pid)
    return found


def until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + 120
    while not holds():
        assert time.monotonic() < end, "still not"
        time.sleep(0.1)
