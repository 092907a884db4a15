"""What is sent again, and what is not: of both clients, by servers that misbehave."""

import itertools
import socket
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from functools import partial

import pytest

from fromage_client import (
    Client,
    Interrupted,
    NotReady,
    Overloaded,
    ServerFailure,
    TextPart,
    TimedOut,
    TransportFailed,
    Unreachable,
    exchange,
    fold,
)
from fromage_client.errors import server_error
from fromage_client.exchange import LONGEST_WAIT, pause, retry_after
from tests.clients.faces import Face, client_of
from tests.clients.scripted import (
    END_FRAME,
    START_FRAME,
    Answer,
    ScriptedServer,
    answer,
    error,
    frame,
    reply_stream,
    stream,
)

HELLO = "hello"
AT_ONCE = {"retry-after": "0"}
FULL = partial(error, 429, "unavailable_error", code="queue_full")


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Backs off for a moment only."""
    monkeypatch.setattr(exchange, "_BACK_OFF", 0.01)


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that would have been waited for."""
    seconds: list[float] = []

    async def sleep(self: object, wait: float) -> None:
        seconds.append(wait)

    monkeypatch.setattr("fromage_client.wire.BlockingWire.sleep", sleep)
    monkeypatch.setattr("fromage_client.wire.AsyncWire.sleep", sleep)
    return seconds


def no_server() -> str:
    with socket.create_server(("127.0.0.1", 0)) as placeholder:
        return f"http://127.0.0.1:{placeholder.getsockname()[1]}"


def test_a_full_server_is_asked_again_when_it_says(
    scripted: ScriptedServer, client: Client, slept: list[float]
) -> None:
    full, fuller = (FULL(**{"retry-after": s}) for s in ("7", "3"))
    scripted.script["/v1/chat"] = [full, fuller, reply_stream("ok")]
    assert fold(client.stream(HELLO)).text == "ok"
    assert slept == [7.0, 3.0]
    assert len(scripted.asked) == 3


def test_a_full_server_that_does_not_say_is_asked_less_and_less(
    scripted: ScriptedServer, client: Client, slept: list[float]
) -> None:
    busy = Answer((b"<html>",), status=503)
    scripted.script["/v1/models"] = [busy, busy, busy, answer({"data": []})]
    assert client.models() == ()
    for attempt, waited in enumerate(slept):
        assert 0.25 * 2**attempt <= waited <= 0.5 * 2**attempt
    assert len(slept) == 3


def test_the_wait_is_waited(scripted: ScriptedServer, client: Client) -> None:
    full = FULL(**{"retry-after": "1"})
    scripted.script["/v1/chat"] = [full, reply_stream("ok")]
    began = time.monotonic()
    fold(client.stream(HELLO))
    assert len(scripted.asked) == 2
    assert time.monotonic() - began >= 1


def test_a_server_that_stays_full(face: Face, scripted: ScriptedServer) -> None:
    scripted.script["/v1/chat"] = [FULL(**AT_ONCE)]
    with client_of(face, scripted.url, retries=2) as client, pytest.raises(Overloaded) as caught:
        client.chat(HELLO)
    assert caught.value.retry_after == 0
    assert len(scripted.asked) == 3


def test_a_wait_that_is_too_long_is_not_waited(
    scripted: ScriptedServer, client: Client, slept: list[float]
) -> None:
    scripted.script["/v1/chat"] = [
        error(503, "unavailable_error", code="not_ready", **{"retry-after": "3600"})
    ]
    with pytest.raises(NotReady) as caught:
        client.chat(HELLO)
    assert caught.value.retry_after == 3600
    assert slept == []


def test_a_server_that_failed_is_not_asked_again(scripted: ScriptedServer, client: Client) -> None:
    scripted.script["/v1/chat"] = [error(503, "server_error", **AT_ONCE)]
    with pytest.raises(ServerFailure):
        client.chat(HELLO)
    assert len(scripted.asked) == 1


@pytest.mark.usefixtures("soon")
def test_a_reset_before_the_first_byte_is_tried_again(
    scripted: ScriptedServer, client: Client
) -> None:
    scripted.script["/v1/chat"] = [Answer(reset=True), Answer(reset=True), reply_stream("ok")]
    assert fold(client.stream(HELLO)).text == "ok"
    assert len(scripted.asked) == 3


@pytest.mark.usefixtures("soon")
def test_a_body_that_breaks_before_its_first_byte_is_tried_again(
    scripted: ScriptedServer, client: Client
) -> None:
    scripted.script["/v1/models"] = [Answer((), cut=True), answer({"data": []})]
    assert client.models() == ()


@pytest.mark.usefixtures("soon")
def test_resets_without_end(scripted: ScriptedServer, face: Face) -> None:
    scripted.script["/v1/chat"] = [Answer(reset=True)]
    with client_of(face, scripted.url, retries=2) as client, pytest.raises(Interrupted):
        client.chat(HELLO)
    assert len(scripted.asked) == 3


@pytest.mark.usefixtures("soon")
@pytest.mark.parametrize("cut", [False, True])
def test_after_the_first_byte_nothing_is_sent_again(
    scripted: ScriptedServer, client: Client, cut: bool
) -> None:
    delta = frame("text.delta", index=0, text="hal")
    scripted.script["/v1/chat"] = [
        stream(START_FRAME, delta, END_FRAME[:-1], cut=cut),
        reply_stream("other"),
    ]
    events = client.stream(HELLO)
    with pytest.raises(Interrupted):
        list(events)
    assert events.content == (TextPart("hal"),)
    assert len(scripted.asked) == 1


@pytest.mark.usefixtures("soon")
def test_half_an_answer_is_not_asked_for_again(scripted: ScriptedServer, client: Client) -> None:
    scripted.script["/v1/models"] = [Answer((b'{"da',), cut=True), answer({"data": []})]
    with pytest.raises(Interrupted):
        client.models()
    assert len(scripted.asked) == 1


@pytest.mark.usefixtures("soon")
def test_what_can_be_done_once_is_not_sent_twice(scripted: ScriptedServer, client: Client) -> None:
    """The reset may have come after the server did it."""
    scripted.script["/v1/collections"] = [Answer(reset=True), answer({})]
    with pytest.raises(Interrupted):
        client.create_collection("mine")
    assert len(scripted.asked) == 1


def test_what_can_be_done_once_is_sent_again_where_it_was_refused(
    scripted: ScriptedServer, client: Client
) -> None:
    scripted.script["/v1/collections"] = [
        FULL(**AT_ONCE),
        answer({}),
    ]
    assert client.create_collection("mine").name == "mine"
    assert len(scripted.asked) == 2


def test_no_server_there(face: Face, slept: list[float]) -> None:
    with client_of(face, no_server()) as client:
        with pytest.raises(Unreachable, match=r"cannot reach http://127\.0\.0\.1"):
            client.health()
        assert slept == []
        with pytest.raises(Unreachable, match="cannot reach"):
            list(client.stream(HELLO))
        assert len(slept) == 3


def test_no_address_at_all(face: Face, slept: list[float]) -> None:
    with client_of(face, "localhost") as client, pytest.raises(TransportFailed, match="localhost"):
        client.models()
    assert slept == []


def test_a_silent_server(face: Face, scripted: ScriptedServer, slept: list[float]) -> None:
    """What takes too long once would take too long again."""
    scripted.script["/v1/chat"] = [stream(START_FRAME, stay=True)]
    with (
        client_of(face, scripted.url, timeout=0.3) as hurried,
        pytest.raises(TimedOut, match="in time"),
    ):
        list(hurried.stream(HELLO))
    assert slept == []


def test_asking_whether_it_is_ready_never_waits(scripted: ScriptedServer, client: Client) -> None:
    scripted.script["/readyz"] = [
        error(503, "unavailable_error", "42 %", "not_ready", **{"retry-after": "9"})
    ]
    with pytest.raises(NotReady, match="42 %"):
        client.ready()
    assert len(scripted.asked) == 1


def test_waiting_until_it_is_ready(
    scripted: ScriptedServer, client: Client, slept: list[float]
) -> None:
    phases = ("drawing: 40 %", "drawing: 40 %", "warming up")
    loading = [error(503, "unavailable_error", phase) for phase in phases]
    scripted.script["/readyz"] = [Answer(reset=True), *loading, Answer()]
    told: list[str] = []
    client.wait_until_ready(within=60, progress=told.append)
    assert told[1:] == ["drawing: 40 %", "warming up"]
    assert "hung up" in told[0]
    assert len(slept) == 4


def test_waiting_for_one_that_never_is(
    scripted: ScriptedServer, client: Client, slept: list[float]
) -> None:
    scripted.script["/readyz"] = [error(503, "unavailable_error", "drawing")]
    with pytest.raises(TimedOut, match="not ready within 0 s: drawing"):
        client.wait_until_ready(within=0)


def test_waiting_for_one_that_dies(
    scripted: ScriptedServer, client: Client, slept: list[float]
) -> None:
    scripted.script["/readyz"] = [error(503, "unavailable_error"), Answer(reset=True)]
    with pytest.raises(Interrupted):
        client.wait_until_ready(within=3)
    scripted.script["/readyz"] = [error(503, "server_error", "the engine has stopped")]
    with pytest.raises(ServerFailure, match="stopped"):
        client.wait_until_ready()


def test_pauses_double_up_to_a_limit() -> None:
    pauses = [[pause(Unreachable(), n, repeatable=True) or 0 for _ in range(50)] for n in range(9)]
    for n, found in enumerate(pauses):
        longest = min(8.0, 0.5 * 2**n)
        assert longest / 2 <= min(found) < max(found) <= longest
    assert all(max(a) < max(b) for a, b in itertools.pairwise(pauses[:4]))


def test_what_there_is_no_pause_for() -> None:
    full = server_error({}, status=429, retry_after=LONGEST_WAIT + 1)
    assert pause(full, 0, repeatable=True) is None
    assert pause(Interrupted(), 0, repeatable=False) is None
    assert pause(TimedOut(), 0, repeatable=True) is None
    assert pause(server_error({}, status=400), 0, repeatable=True) is None


def test_retry_after_is_seconds_or_a_date() -> None:
    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True)
    assert 28 < (retry_after(soon) or 0) <= 30
    assert retry_after("Fri, 01 Jan 2021 00:00:00 GMT") == 0
    assert (retry_after("7"), retry_after(None), retry_after("soon")) == (7, None, None)
