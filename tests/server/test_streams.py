"""Running replies: the event loop stays free, what a stream says beside its deltas, and how long
connections last."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.client import HTTPConnection
from typing import Any

import httpx

from fromage_client.sse import Frame, SSEParser

LONG: dict[str, Any] = {
    "prompt": "tell me",
    "max_tokens": 3000,
    "ignore_eos": True,
    "max_num_rets": 0,
}


@contextmanager
def streaming(server: httpx.Client, body: dict[str, Any] = LONG) -> Iterator[Iterator[Frame]]:
    """A stream whose reply has begun; leaving the block hangs up."""
    with server.stream("POST", "/v1/generate", json={**body, "stream": True}) as response:
        assert response.status_code == 200, response.read()
        parser = SSEParser()
        frames = (frame for chunk in response.iter_bytes() for frame in parser.feed(chunk))
        assert next(frames).event == "message.start"
        assert next(frames).event == "text.delta"
        yield frames


def test_health_answers_between_two_deltas(server: httpx.Client) -> None:
    arrived: list[float] = []
    begun, done = threading.Event(), threading.Event()

    def read() -> None:
        with streaming(server) as frames:
            begun.set()
            for _ in frames:
                arrived.append(time.monotonic())
                if done.is_set():
                    return

    reader = threading.Thread(target=read)
    reader.start()
    assert begun.wait(60)
    with httpx.Client(base_url=server.base_url) as other:
        for _ in range(5):
            assert other.get("/healthz").json() == {"status": "ok"}
    answered = time.monotonic()
    time.sleep(0.2)
    done.set()
    reader.join(60)
    assert arrived[-1] > answered, "the stream ended before /healthz answered"


def test_silence_is_filled_with_comments(server: httpx.Client) -> None:
    """The reference's text is cut after the last token, so nothing is sent for a long time."""
    body = {"prompt": "a", "max_tokens": 1000, "reference_compat": True, "stream": True}
    with server.stream("POST", "/v1/generate", json=body) as response:
        sent = b"".join(response.iter_bytes())
    assert sent.count(b": keep-alive\n\n") >= 1
    assert [frame.event for frame in SSEParser().feed(sent)][-1] == "message.end"


def test_an_error_after_the_start_is_an_event(server: httpx.Client) -> None:
    body = {"prompt": "a[RET]", "max_tokens": 0, "reference_compat": True, "max_img_per_ret": 9}
    with server.stream("POST", "/v1/generate", json={**body, "stream": True}) as response:
        frames = list(SSEParser().feed(b"".join(response.iter_bytes())))
    assert frames[0].event == "message.start"
    assert [frame.event for frame in frames].count("error") == 1
    assert json.loads(frames[-1].data)["error"]["code"] == "reference_error"


def test_replies_do_not_depend_on_their_company(server: httpx.Client) -> None:
    body = LONG | {"max_tokens": 200, "prompt": "alone"}
    alone = server.post("/v1/generate", json=body).json()["content"]
    with streaming(server):
        assert server.post("/v1/generate", json=body).json()["content"] == alone


def test_a_connection_outlives_the_clients_patience(server: httpx.Client) -> None:
    """Were the server first to let an idle one go, it might do so while a request is on its way:
    httpx and others keep theirs for five seconds."""
    with closing(HTTPConnection(server.base_url.host, server.base_url.port or 80)) as connection:
        connection.request("GET", "/healthz")
        connection.getresponse().read()
        used = connection.sock
        time.sleep(6)
        connection.request("GET", "/healthz")
        assert connection.getresponse().status == 200
        assert connection.sock is used
