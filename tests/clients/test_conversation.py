"""Conversations that keep their history: of both clients."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fromage_client import (
    Client,
    Conversation,
    Interrupted,
    InvalidRequest,
    NotFound,
    TextDelta,
    UnreadableConversation,
    Upload,
)
from tests.clients.scripted import (
    END,
    START_FRAME,
    Answer,
    ScriptedServer,
    answer,
    error,
    frame,
    image_part,
    reply_stream,
    stream,
)


def said(*content: Any) -> Answer:
    parts = [{"type": "text", "text": part} if isinstance(part, str) else part for part in content]
    message = {"role": "assistant", "content": parts}
    return answer({"id": "r", "model": "m", "message": message, **END})


def user(*texts: str) -> dict[str, Any]:
    return {"role": "user", "content": [{"type": "text", "text": text} for text in texts]}


def assistant(*texts: str) -> dict[str, Any]:
    return {**user(*texts), "role": "assistant"}


def asked(scripted: ScriptedServer) -> list[Any]:
    return [request.json for request in scripted.asked_for("/v1/chat")]


def test_the_history_goes_with_every_question(scripted: ScriptedServer, client: Client) -> None:
    scripted.script["/v1/chat"] = [said("one", image_part()), reply_stream("two"), said("three")]
    talk = client.conversation("Be brief.", temperature=0.5, seed=1)
    assert talk.send("a", max_tokens=9).text == "one"
    events = talk.stream("b")
    assert "".join(e.text for e in events if isinstance(e, TextDelta)) == "two"
    talk.send("c", seed=2)
    history = [
        {"role": "system", "content": "Be brief."},
        user("a"),
        {"role": "assistant", "content": [{"type": "text", "text": "one"}, image_part()]},
        user("b"),
        assistant("two"),
        user("c"),
    ]
    bodies = asked(scripted)
    assert [body.pop("messages") for body in bodies] == [history[:2], history[:4], history]
    kept = {"truncation": "oldest_turns", "temperature": 0.5}
    assert bodies == [
        {**kept, "seed": 1, "max_tokens": 9},
        {**kept, "seed": 1, "stream": True},
        {**kept, "seed": 2},
    ]
    assert talk.turns == 3


def test_a_question_that_failed_leaves_no_trace(scripted: ScriptedServer, client: Client) -> None:
    refused = error(400, "invalid_request_error")
    scripted.script["/v1/chat"] = [said("one"), refused, refused, stream(START_FRAME)]
    talk = client.conversation()
    talk.send("a")
    with pytest.raises(InvalidRequest):
        talk.send("b")
    with pytest.raises(InvalidRequest):
        list(talk.stream("b"))
    with pytest.raises(Interrupted):
        list(talk.stream("b"))
    with pytest.raises(FileNotFoundError):
        talk.send(Path("/no/such/file.png"))
    assert talk.messages == [user("a"), assistant("one")]


def test_what_came_before_it_was_left_is_kept(scripted: ScriptedServer, client: Client) -> None:
    delta = frame("text.delta", index=0, text="half a")
    scripted.script["/v1/chat"] = [
        stream(START_FRAME, delta, stay=True),
        stream(START_FRAME, delta),
        said("ok"),
    ]
    talk = client.conversation()
    for event in talk.stream("a"):
        if isinstance(event, TextDelta):
            break
    assert talk.messages == [user("a"), assistant("half a")]
    with pytest.raises(Interrupted):
        list(talk.stream("b"))
    talk.send("c")
    assert len(asked(scripted)[2]["messages"]) == 5


def test_turns_are_taken_back_and_said_otherwise(scripted: ScriptedServer, client: Client) -> None:
    scripted.script["/v1/chat"] = [said(str(number)) for number in range(9)]
    talk = client.conversation("S")
    for text in "abcd":
        talk.send(text)
    talk.undo()
    assert [m["content"] for m in talk.messages][-1] == [{"type": "text", "text": "2"}]
    assert talk.edit(1, "B").text == "4"
    system = {"role": "system", "content": "S"}
    assert talk.messages == [system, user("a"), assistant("0"), user("B"), assistant("4")]
    assert talk.edit(-1, "C").text == "5"
    talk.undo(2)
    assert talk.messages == [system]
    for wrong in (0, 1, -1):
        with pytest.raises(IndexError, match="there are 0"):
            talk.undo(wrong)
    with pytest.raises(IndexError, match="turn 0: there are 0"):
        talk.edit(0, "A")


def test_an_edit_that_failed_changes_nothing(scripted: ScriptedServer, client: Client) -> None:
    scripted.script["/v1/chat"] = [said("0"), said("1"), error(400, "invalid_request_error")]
    talk = client.conversation()
    talk.send("a")
    talk.send("b")
    with pytest.raises(InvalidRequest):
        talk.edit(0, "A")
    assert talk.turns == 2


def lost(place: str, code: str = "image_not_found") -> Answer:
    told = {"type": "not_found_error", "code": code, "message": "gone", "param": place}
    return answer({"error": told}, status=404)


def stored(id: str) -> dict[str, Any]:
    return {"type": "image", "image": {"collection": "mine", "id": id}}


def spoken(talk: Conversation, how: str, *content: Any) -> None:
    if how == "send":
        talk.send(*content)
    else:
        assert list(talk.stream(*content))


@pytest.mark.parametrize("how", ["send", "stream"])
def test_a_picture_that_was_deleted_since_is_left_out(
    scripted: ScriptedServer, client: Client, how: str
) -> None:
    went_on = said("3") if how == "send" else reply_stream("3")
    scripted.script["/v1/chat"] = [
        *(said("0"), said("1"), said("2")),
        lost("messages.1.content.0.image.id"),
        lost("messages.1.content.0.image_url.url", "upload_not_found"),
        lost("messages.2.content.1.image.collection", "collection_not_found"),
        went_on,
    ]
    talk = client.conversation("S")
    upload = {"type": "image_url", "image_url": {"url": "upload:u1"}}
    talk.send(stored("a"), upload)
    talk.send("b", stored("b"))
    talk.send("c")
    spoken(talk, how, "d", stored("d"))
    # A question of which nothing is left isn't sent, and stays a turn.
    assert [message["content"] for message in asked(scripted)[-1]["messages"]] == [
        "S",
        *([{"type": "text", "text": text}] for text in ("0", "b", "1", "c", "2")),
        [{"type": "text", "text": "d"}, stored("d")],
    ]
    assert talk.turns == 4
    assert [message["content"] for message in talk.messages[1:4:2]] == [
        [],
        [{"type": "text", "text": "b"}],
    ]
    assert [(one.turn, one.part, one.error.code) for one in talk.left_out] == [
        (0, stored("a"), "image_not_found"),
        (0, upload, "upload_not_found"),
        (1, stored("b"), "collection_not_found"),
    ]
    count = len(scripted.asked)
    scripted.script["/v1/chat"] = [went_on]
    spoken(talk, how, "e")
    assert len(scripted.asked) == count + 1


def test_what_is_asked_about_now_is_not_left_out(
    scripted: ScriptedServer, client: Client, png: bytes
) -> None:
    scripted.script["/v1/chat"] = [
        said("0"),
        lost("messages.2.content.0.image.id"),
        lost("messages.1.content.9.image.id"),
        lost("collection", "collection_not_found"),
        lost("messages.0.content.0.image.upload", "upload_not_found"),
    ]
    talk = client.conversation()
    talk.send(png)
    before = list(talk.messages)
    for content in (stored("a"), "b", "c", "d"):
        with pytest.raises(NotFound):
            talk.send(content)
    assert talk.messages == before
    assert talk.left_out == ()


def test_what_was_left_out_stays_so_after_an_error(
    scripted: ScriptedServer, client: Client
) -> None:
    scripted.script["/v1/chat"] = [
        said("0"),
        lost("messages.0.content.0.image.id"),
        error(400, "invalid_request_error"),
        said("1"),
    ]
    talk = client.conversation()
    talk.send(stored("a"), "a")
    with pytest.raises(InvalidRequest):
        talk.send("b")
    assert len(talk.left_out) == 1
    talk.send("b")
    assert asked(scripted)[-1]["messages"][0] == user("a")


def test_an_image_is_read_when_it_is_sent(
    scripted: ScriptedServer, client: Client, png: bytes, tmp_path: Path
) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(png)
    scripted.script["/v1/chat"] = [said("0"), said("1")]
    pixels = np.zeros((2, 2), np.uint8)
    talk = client.conversation()
    talk.send("what", path, pixels)
    path.unlink()
    pixels[:] = 255
    talk.send("and?")
    first, second = asked(scripted)
    assert second["messages"][0] == first["messages"][0]
    assert talk.messages[0]["content"][1] == png


def test_saved_and_loaded_it_goes_on(
    scripted: ScriptedServer, client: Client, png: bytes, tmp_path: Path
) -> None:
    scripted.script["/v1/chat"] = [said("é", image_part()), said("1"), said("2")]
    talk = client.conversation("S", top_p=0.5)
    talk.send("what is\ud800", png, Upload("u1", 1, 1, 0))
    file = tmp_path / "talk.json"
    talk.save(file)
    again = client.conversation().load(file)
    assert again.messages[1]["content"][1] == png
    talk.send("b")
    again.send("b")
    _, b, other = asked(scripted)
    assert other == b
    assert (other["top_p"], other["messages"][0]["role"]) == (0.5, "system")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "is not a saved conversation"),
        ("[]", "is not a saved conversation"),
        (
            '{"format": "other", "version": 1, "messages": [], "options": {}}',
            "is {'format': 'other",
        ),
        (
            '{"format": "fromage-conversation", "version": 1, "messages": [3], "options": {}}',
            "is not a saved",
        ),
    ],
)
def test_a_file_that_is_no_conversation(
    client: Client, tmp_path: Path, text: str, said: str
) -> None:
    file = tmp_path / "talk.json"
    file.write_text(text)
    talk = client.conversation("S")
    with pytest.raises(UnreadableConversation, match=said):
        talk.load(file)
    assert len(talk.messages) == 1
    assert json.dumps(talk.options) == '{"truncation": "oldest_turns"}'
