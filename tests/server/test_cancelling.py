"""Who leaves is cancelled, and a full queue says so: seen in the engine's counts."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from itertools import islice
from pathlib import Path
from typing import Any

import httpx
import pytest

from fromage_server.settings import Settings
from tests.server.local import Local, local_server

LONG: dict[str, Any] = {
    "prompt": "tell me",
    "max_tokens": 4000,
    "ignore_eos": True,
    "max_num_rets": 0,
}
SHORT = LONG | {"max_tokens": 2}


@pytest.fixture(scope="module")
def local(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Local]:
    """Two places in the batch, and one that waits."""
    settings = Settings(
        bundle=str(tiny_bundle),
        device="cpu",
        max_batch=2,
        max_queue=1,
        cache_dir=tmp_path_factory.mktemp("cache"),
    )
    with local_server(settings) as server:
        yield server


def test_leaving_a_stream_cancels_it(local: Local) -> None:
    local.until_idle()
    before = local.service.stats().counts
    body = LONG | {"stream": True}
    with httpx.stream("POST", f"{local.url}/v1/generate", json=body, timeout=60) as response:
        chunks = response.iter_bytes()  # kept: when it goes, the connection does
        assert next(chunks)
        local.until(lambda: local.service.stats().running == 1)
    local.until_idle()
    after = local.service.stats().counts
    assert after.cancelled == before.cancelled + 1
    assert after.generated_tokens - before.generated_tokens < 4000


def test_leaving_cancels_every_choice(local: Local) -> None:
    local.until_idle()
    before = local.service.stats().counts.cancelled
    body = {
        **{"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "n": 2},
        **{"max_tokens": 4000, "min_word_tokens": 4000, "max_num_rets": 0, "ignore_eos": True},
    }
    url = f"{local.url}/v1/chat/completions"
    with httpx.stream("POST", url, json=body | {"stream": True}, timeout=60) as response:
        chunks = response.iter_bytes()
        assert next(chunks)
        local.until(lambda: local.service.stats().running == 2)
    local.until(lambda: local.service.stats().counts.cancelled == before + 2)
    with (
        httpx.Client(timeout=httpx.Timeout(60, read=0.5)) as hasty,
        pytest.raises(httpx.ReadTimeout),
    ):
        hasty.post(url, json=body)
    local.until(lambda: local.service.stats().counts.cancelled == before + 4)


def test_leaving_before_the_answer_cancels_it(local: Local) -> None:
    local.until_idle()
    before = local.service.stats().counts.cancelled
    with httpx.Client(base_url=local.url, timeout=httpx.Timeout(60, read=0.5)) as hasty:
        for _ in range(2):
            with pytest.raises(httpx.ReadTimeout):
                hasty.post("/v1/generate", json=LONG)
    local.until(lambda: local.service.stats().counts.cancelled == before + 2)


def test_leaving_the_queue_cancels_it_too(local: Local) -> None:
    local.until_idle()
    before = local.service.stats().counts.cancelled
    url, body = f"{local.url}/v1/generate", LONG | {"stream": True}
    with (
        httpx.stream("POST", url, json=body, timeout=60),
        httpx.stream("POST", url, json=body, timeout=60),
    ):
        local.until(lambda: local.service.stats().running == 2)
        with httpx.stream("POST", url, json=body, timeout=60):
            local.until(lambda: local.service.stats().waiting == 1)
        local.until(lambda: local.service.stats().waiting == 0)
    local.until(lambda: local.service.stats().counts.cancelled == before + 3)


def test_what_is_being_prepared_counts_as_waiting(
    local: Local, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two places, one that waits: of twelve that arrive at once, nine are refused unprepared."""
    local.until_idle()
    go_on, prepared = threading.Event(), []
    compose = local.service._composer.raw

    def slow(parts: Any) -> Any:
        prepared.append(parts)
        assert go_on.wait(60)
        return compose(parts)

    monkeypatch.setattr(local.service._composer, "raw", slow)
    with ThreadPoolExecutor(12) as pool:
        asked = [
            pool.submit(httpx.post, f"{local.url}/v1/generate", json=SHORT, timeout=120)
            for _ in range(12)
        ]
        refused = list(islice((f.result().status_code for f in as_completed(asked)), 9))
        go_on.set()
        answered = [f.result().status_code for f in asked]
    assert refused == [429] * 9
    assert sorted(answered) == [200] * 3 + [429] * 9
    assert len(prepared) == 3


def test_who_leaves_before_the_preparation_is_not_generated_for(
    local: Local, monkeypatch: pytest.MonkeyPatch
) -> None:
    local.until_idle()
    go_on, begun = threading.Event(), threading.Event()
    compose = local.service._composer.raw

    def slow(parts: Any) -> Any:
        begun.set()
        assert go_on.wait(60)
        return compose(parts)

    monkeypatch.setattr(local.service._composer, "raw", slow)
    before = local.service.stats().counts
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{local.url}/v1/generate", json=LONG, timeout=httpx.Timeout(60, read=1))
    assert begun.is_set()
    local.until(lambda: local.service.intake.preparing == 0)
    go_on.set()
    assert httpx.post(f"{local.url}/v1/generate", json=SHORT, timeout=120).status_code == 200
    local.until_idle()
    assert local.service.stats().counts.finished == before.finished + 1


def test_a_full_queue_says_when_to_come_back(local: Local) -> None:
    """Two places are taken and one request waits: of three more, two are refused at once."""
    local.until_idle()
    url, stream = f"{local.url}/v1/generate", LONG | {"stream": True}
    with ThreadPoolExecutor(3) as pool:
        with (
            httpx.stream("POST", url, json=stream, timeout=60),
            httpx.stream("POST", url, json=stream, timeout=60),
        ):
            local.until(lambda: local.service.stats().running == 2)
            more = [pool.submit(httpx.post, url, json=SHORT, timeout=120) for _ in range(3)]
            refused = [done.result() for done in islice(as_completed(more), 2)]
        statuses = sorted(future.result().status_code for future in more)
    assert statuses == [200, 429, 429]
    for answer in refused:
        assert answer.json()["error"]["code"] == "queue_full"
        assert int(answer.headers["retry-after"]) >= 1


def test_one_bad_request_does_not_hurt_the_others(local: Local) -> None:
    local.until_idle()
    alone = httpx.post(f"{local.url}/v1/generate", json=SHORT, timeout=60).json()["content"]
    with ThreadPoolExecutor(2) as pool:
        good = pool.submit(httpx.post, f"{local.url}/v1/generate", json=SHORT, timeout=60)
        bad = httpx.post(
            f"{local.url}/v1/generate", json=SHORT | {"prompt": "a" * 5000}, timeout=60
        )
    assert bad.status_code == 400
    assert good.result().json()["content"] == alone


def test_a_shutdown_lets_replies_finish(local: Local) -> None:
    """The last test of this file: afterwards the server is gone."""
    local.until_idle()
    body = LONG | {"max_tokens": 300, "stream": True}
    with httpx.stream("POST", f"{local.url}/v1/generate", json=body, timeout=60) as response:
        chunks = response.iter_bytes()
        sent = next(chunks)
        local.shut_down()
        sent += b"".join(chunks)
    assert b"event: message.end" in sent
    assert b'"completion_tokens":300' in sent
    with pytest.raises(httpx.TransportError):
        httpx.get(f"{local.url}/healthz")
