"""What nobody foresaw, as a client and the log see it: a real process, and its connections."""

import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from http.client import HTTPConnection, IncompleteRead
from pathlib import Path

import httpx
import pytest

from tests.server.process import start, wait_for


@dataclass(frozen=True)
class Broken:
    """A server whose routes fail, and where its log is."""

    url: str
    log: Path

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def tracebacks(self) -> int:
        return self.log.read_text().count("Traceback (most recent call last)")


@pytest.fixture(scope="module")
def broken(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broken]:
    folder = tmp_path_factory.mktemp("broken")
    program = (sys.executable, "-m", "tests.server.broken")
    with start(folder, "--bundle", str(tiny_bundle), program=program) as (process, url):
        wait_for(process, url, "/healthz")
        (log,) = folder.glob("server-*.log")
        yield Broken(url, log)


def test_the_connection_outlives_the_failure(broken: Broken) -> None:
    """All on one connection, which would say so were it another one."""
    before = broken.tracebacks()
    with socket.create_connection(("127.0.0.1", broken.port), timeout=30) as raw:
        for line, status in (
            ("GET /broken", 500),
            ("POST /broken", 500),
            ("GET /healthz", 200),
            ("GET /broken", 500),
        ):
            body = b"{}" if line.startswith("POST") else b""
            head = f"{line} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n"
            raw.sendall(head.encode() + body)
            answer = HTTPConnection("x").response_class(raw)
            answer.begin()
            content = answer.read()
            assert answer.status == status, content
            assert not answer.will_close
    assert broken.tracebacks() - before == 3
    assert "GET /broken failed\nTraceback" in broken.log.read_text()


def test_it_is_answered_in_the_envelope(broken: Broken) -> None:
    with httpx.Client(base_url=broken.url) as client:
        for _ in range(3):
            answer = client.get("/broken")
            assert answer.status_code == 500
            assert answer.json()["error"]["code"] == "internal_error"
            assert "nobody foresaw" not in answer.text


def test_half_an_answer_is_no_whole_one(broken: Broken) -> None:
    before = broken.tracebacks()
    connection = HTTPConnection("127.0.0.1", broken.port, timeout=30)
    connection.request("GET", "/torn")
    with pytest.raises(IncompleteRead) as cut:
        connection.getresponse().read()
    assert cut.value.partial == b"half"
    connection.close()
    assert httpx.get(f"{broken.url}/healthz").status_code == 200
    assert broken.tracebacks() - before == 1
