"""Running replies: the loop stays free, who leaves is cancelled, a full queue says so."""

import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from itertools import islice
from typing import Any

import httpx
import pytest

from fromage_client.sse import Frame, SSEParser

LONG: dict[str, Any] = {
    "prompt": "tell me",
    "max_tokens": 3000,
    "ignore_eos": True,
    "max_num_rets": 0,
}
SHORT = LONG | {"max_tokens": 2}


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


def until_idle(server: httpx.Client) -> None:
    """Waits for the replies of an earlier test to be gone."""
    for _ in range(100):
        if server.post("/v1/generate", json=SHORT).status_code == 200:
            return
        time.sleep(0.1)
    pytest.fail("the engine stays busy")


def test_health_answers_between_two_deltas(server: httpx.Client) -> None:
    until_idle(server)
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


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_frees_its_place(server: httpx.Client, stream: bool) -> None:
    """Both places are taken by replies of many seconds; once their clients have left, a short
    request runs at once."""
    until_idle(server)
    if stream:
        with streaming(server), streaming(server):
            pass
    else:
        hasty = httpx.Timeout(60, read=1.0)
        for _ in range(2):
            with pytest.raises(httpx.ReadTimeout):
                httpx.post(f"{server.base_url}/v1/generate", json=LONG, timeout=hasty)
    started = time.monotonic()
    reply = server.post("/v1/generate", json=SHORT)
    assert reply.status_code == 200, reply.text
    waited = time.monotonic() - started
    whole = server.post("/v1/generate", json=LONG).json()["timings"]["total_ms"] / 1000
    assert waited < whole / 2


def test_a_full_queue_says_when_to_come_back(server: httpx.Client) -> None:
    """Two places and one that waits: of three more requests, two are refused at once."""
    until_idle(server)
    url = f"{server.base_url}/v1/generate"
    with ThreadPoolExecutor(3) as pool:
        with streaming(server), streaming(server):
            more = [pool.submit(httpx.post, url, json=SHORT, timeout=120) for _ in range(3)]
            refused = [done.result() for done in islice(as_completed(more), 2)]
        answers = [future.result() for future in more]
    assert sorted(answer.status_code for answer in answers) == [200, 429, 429]
    for answer in refused:
        assert answer.json()["error"]["code"] == "queue_full"
        assert int(answer.headers["retry-after"]) >= 1


def test_silence_is_filled_with_comments(server: httpx.Client) -> None:
    """The reference's text is cut after the last token, so nothing is sent for a long time."""
    until_idle(server)
    body = {"prompt": "a", "max_tokens": 1500, "reference_compat": True, "stream": True}
    with server.stream("POST", "/v1/generate", json=body) as response:
        sent = b"".join(response.iter_bytes())
    assert sent.count(b": keep-alive\n\n") >= 1
    assert [frame.event for frame in SSEParser().feed(sent)][-1] == "message.end"


def test_an_error_after_the_start_is_an_event(server: httpx.Client) -> None:
    until_idle(server)
    body = {"prompt": "a[RET]", "max_tokens": 0, "reference_compat": True, "max_img_per_ret": 9}
    with server.stream("POST", "/v1/generate", json={**body, "stream": True}) as response:
        frames = list(SSEParser().feed(b"".join(response.iter_bytes())))
    assert [frame.event for frame in frames] == ["message.start", "error"]
    assert json.loads(frames[-1].data)["error"]["code"] == "reference_error"


def test_replies_do_not_depend_on_their_company(server: httpx.Client) -> None:
    until_idle(server)
    body = LONG | {"max_tokens": 200, "prompt": "alone"}
    alone = server.post("/v1/generate", json=body).json()["content"]
    with streaming(server):
        assert server.post("/v1/generate", json=body).json()["content"] == alone
