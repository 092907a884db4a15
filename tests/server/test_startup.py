"""From the start of the process to the first answer, and what ends it early."""

import signal
import socket
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI

from fromage_server import runtime
from fromage_server.app import create_app
from fromage_server.cli import main
from fromage_server.settings import Settings
from fromage_server.startup import Loaded, Report, Startup
from fromage_server.state import ServerState
from fromage_server.uploads import UploadStore
from fromage_server.workers import Workers
from tests.server import pictures, tiny
from tests.server.process import COMMAND, environment, start, wait_for
from tests.server.sizes import PICTURES


def test_health_at_once_and_ready_later(tiny_bundle: Path, tmp_path: Path) -> None:
    """An images folder is indexed at the first start; the second one finds it indexed."""
    pictures.write_pictures(tmp_path / "pictures", PICTURES)
    flags = ("--bundle", str(tiny_bundle), "--images", f"pets={tmp_path / 'pictures'}")
    with start(tmp_path, *flags) as (process, url):
        wait_for(process, url, "/healthz")
        early = httpx.get(f"{url}/readyz")
        assert early.status_code == 503
        assert early.json()["error"]["code"] == "not_ready"
        assert "not ready yet" in early.json()["error"]["message"]
        assert int(early.headers["retry-after"]) >= 1
        chat = {"messages": [{"role": "user", "content": "a"}]}
        assert httpx.post(f"{url}/v1/chat", json=chat).status_code == 503
        wait_for(process, url, "/readyz")
        assert httpx.get(f"{url}/v1/collections").json()["collections"][0]["size"] == PICTURES
    assert process.returncode in (0, -signal.SIGTERM)
    (log,) = tmp_path.glob("server-*.log")
    assert f"building the collection pets: {PICTURES + 1} of {PICTURES + 1}" in log.read_text()
    assert "1 images could not be read" in log.read_text()

    phases = Phases()
    folder = {"pets": tmp_path / "pictures"}
    again = Settings(bundle=str(tiny_bundle), images=folder, device="cpu", cache_dir=tmp_path)
    load(again, phases).stop()
    assert phases
    assert not any("building" in phase for phase in phases)


def run(cache: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [COMMAND, "serve", "--port", "18999", "--device", "cpu", *flags],
        env=environment(cache),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_a_collection_of_another_bundle_ends_the_start(
    tiny_collection: Path, tmp_path: Path
) -> None:
    tiny.write_bundle(tmp_path / "other", seed=8)
    flags = ("--bundle", str(tmp_path / "other"), "--collection", f"shelf={tiny_collection}")
    ended = run(tmp_path, *flags)
    assert ended.returncode == 1
    assert "collection shelf" in ended.stderr.splitlines()[-1]
    assert "was made for bundle tiny" in ended.stderr.splitlines()[-1]


class Phases(list[str]):
    """What was reported."""

    def __call__(self, phase: str, *, quiet: bool = False) -> None:
        self.append(phase)


def load(settings: Settings, report: Report) -> Loaded:
    return runtime.load(settings, UploadStore(ttl_s=1, max_bytes=1), Workers(), report)


def test_a_missing_collection_and_a_missing_bundle(tiny_bundle: Path, tmp_path: Path) -> None:
    told: list[str] = []

    def attempt(settings: Settings) -> None:
        startup = Startup(lambda report: load(settings, report), told.append)
        startup.start()
        startup.join()

    nowhere = {"nowhere": tmp_path / "nowhere"}
    attempt(Settings(bundle=str(tiny_bundle), collections=nowhere, device="cpu"))
    attempt(Settings(bundle=str(tmp_path), device="cpu"))
    collection, bundle = told
    assert "holds no collection" in collection
    assert "no bundle here" in bundle


async def test_a_dead_engine_is_neither_ready_nor_healthy(
    tiny_bundle: Path, tmp_path: Path
) -> None:
    settings = Settings(bundle=str(tiny_bundle), device="cpu", cache_dir=tmp_path)
    loaded = load(settings, Phases())
    app: FastAPI = create_app(settings, on_failure=lambda message: None)
    startup = Startup(lambda report: loaded, lambda message: None)
    startup.start()
    startup.join()
    app.state.server = ServerState(settings, UploadStore(ttl_s=1, max_bytes=1), Workers(), startup)
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        assert (await client.get("/readyz")).json() == {"status": "ready"}
        body = {"prompt": "a", "max_tokens": 2}
        assert (await client.post("/v1/generate", json=body)).status_code == 200
        loaded.stop()
        for path in ("/readyz", "/healthz", "/v1/models"):
            response = await client.get(path)
            assert response.status_code == 503, path
            assert response.json()["error"]["code"] == "engine_dead"
        assert (await client.post("/v1/generate", json=body)).status_code == 503


def test_every_command_has_a_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    out = capsys.readouterr().out
    assert all(verb in out for verb in ("serve", "weights", "index", "chat"))


@pytest.mark.slow
def test_what_still_runs_at_the_end_of_the_grace_hears_of_it(
    tiny_bundle: Path, tmp_path: Path
) -> None:
    """Eight replies of 4,000 tokens each take longer than a second: they end with an error event
    and not with a cut connection."""
    flags = ("--bundle", str(tiny_bundle), "--shutdown-s", "1")
    body = {"prompt": "a", "max_tokens": 4000, "ignore_eos": True, "max_num_rets": 0}
    begun = threading.Barrier(9)

    def read(url: str) -> bytes:
        json = {**body, "stream": True}
        with httpx.stream("POST", f"{url}/v1/generate", json=json, timeout=60) as response:
            chunks = response.iter_bytes()
            sent = next(chunks)
            begun.wait(60)
            return sent + b"".join(chunks)

    with start(tmp_path, *flags) as (process, url), ThreadPoolExecutor(8) as pool:
        wait_for(process, url, "/readyz")
        streams = [pool.submit(read, url) for _ in range(8)]
        begun.wait(60)
        process.send_signal(signal.SIGTERM)
        sent = [stream.result() for stream in streams]
        assert process.wait(60) in (0, -signal.SIGTERM)
    assert all(b"event: error" in text and b"engine_dead" in text for text in sent)


def test_an_address_that_is_taken_is_told_in_one_line(
    tiny_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert main(["serve", "--bundle", str(tiny_bundle), "--port", str(port)]) == 1
    assert f"fromage: cannot listen on 127.0.0.1, port {port}" in capsys.readouterr().err
