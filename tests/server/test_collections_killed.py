"""A server killed in the middle of additions."""

import random
import signal
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from fromage_index.store import verify
from tests.server.collections import listed, send, served
from tests.server.pictures import encoded, picture
from tests.server.process import start, wait_for


@pytest.mark.slow
def test_kill_9_in_the_middle_of_additions(tiny_bundle: Path, tmp_path: Path) -> None:
    """What was acknowledged before is there after, and serves its bytes."""
    acknowledged: dict[int, str] = {}
    removed: set[int] = set()
    with start(tmp_path, "--bundle", str(tiny_bundle)) as (process, url):
        wait_for(process, url, "/readyz")
        with httpx.Client(base_url=url, timeout=60) as client:
            client.post("/v1/collections", json={"name": "mine"})
            fill_until_killed(client, process, acknowledged, removed)
    verify(tmp_path / "created" / "mine")
    with served(tiny_bundle, tmp_path) as client:
        check(client, acknowledged, removed)
        assert send(client, 5000)
    verify(tmp_path / "created" / "mine")


def fill_until_killed(
    client: httpx.Client,
    process: subprocess.Popen[str],
    acknowledged: dict[int, str],
    removed: set[int],
) -> None:
    """Four clients add and remove until the server is killed, after some have been answered."""
    enough = threading.Event()

    def work(worker: int) -> None:
        for number in range(worker, 1000, 4):
            try:
                acknowledged[number] = send(client, number)
                if number % 5 == 0:
                    removed.add(number)  # from now on it may be gone
                    client.delete(f"/v1/collections/mine/images/{acknowledged[number]}")
            except httpx.TransportError:
                return
            if len(acknowledged) >= 30:
                enough.set()

    with ThreadPoolExecutor(4) as pool:
        workers = [pool.submit(work, worker) for worker in range(4)]
        assert enough.wait(120)
        time.sleep(random.random() / 10)
        process.kill()
        for one in workers:
            one.result()
    process.wait()
    assert process.returncode == -signal.SIGKILL


def check(client: httpx.Client, acknowledged: dict[int, str], removed: set[int]) -> None:
    found = {image["key"]: image for image in listed(client, "mine")}
    for number, id in acknowledged.items():
        image = found.get(f"{number}")
        if number in removed and image is None:
            continue
        assert image is not None, number
        assert image["id"] == id
        assert client.get(image["url"]).content == encoded(picture(number))
