"""The terminal chat on pipes, as scripts use it."""

import argparse
import signal
import socket
from pathlib import Path

import pytest

from fromage_server.commands import chat
from tests.clients.process import open_pipes, piped
from tests.clients.scripted import (
    END,
    END_FRAME,
    START_FRAME,
    USAGE,
    Answer,
    ScriptedServer,
    frame,
    image_part,
    reply_stream,
    stream,
)


def text(content: str) -> dict[str, object]:
    return {"type": "text", "text": content}


def refusal(status: int, type_: str, message: str) -> Answer:
    body = {"type": type_, "code": "c", "message": message, "param": None}
    return Answer((frame("", error=body).split(b"data: ")[1],), status=status)


def test_the_history_goes_with_every_line(scripted: ScriptedServer) -> None:
    scripted.script["/v1/chat"] = [reply_stream("Hello ", "you."), reply_stream("Bye.")]
    flags = ["--collection", "demo", "--temperature", "0.5", "--seed", "3", "--max-tokens", "9"]
    done = piped(scripted.url, "hi\n\n  \nbye\n", *flags)
    assert (done.stdout, done.stderr, done.returncode) == ("Hello you.\nBye.\n", "", 0)
    first, second = (asked.json for asked in scripted.asked_for("/v1/chat"))
    messages = [
        {"role": "user", "content": [text("hi")]},
        {"role": "assistant", "content": [text("Hello you.")]},
        {"role": "user", "content": [text("bye")]},
    ]
    assert (first["messages"], second["messages"]) == (messages[:1], messages)
    options = {"collection": "demo", "temperature": 0.5, "seed": 3, "max_tokens": 9}
    assert second == {
        "messages": messages,
        **options,
        "truncation": "oldest_turns",
        "stream": True,
    }


def test_an_image_is_a_line_with_its_address(scripted: ScriptedServer) -> None:
    picture = frame("image", index=1, **image_part())
    words = frame("text.delta", index=0, text="Here:"), frame("text.delta", index=2, text="Nice.")
    scripted.script["/v1/chat"] = [stream(START_FRAME, words[0], picture, words[1], END_FRAME)]
    done = piped(scripted.url, "show me an elephant\n", COLORTERM="truecolor")
    link = f"[image: an elephant] {scripted.url}/v1/images/demo/a1"
    assert done.stdout == f"Here:\n{link}\nNice.\n"
    assert scripted.asked_for("/v1/images/demo/a1") == []


def test_pictures_on_demand_without_a_terminal(scripted: ScriptedServer, png: bytes) -> None:
    picture = frame("image", index=0, **image_part())
    scripted.script["/v1/chat"] = [stream(START_FRAME, picture, END_FRAME)]
    scripted.script["/v1/images/demo/a1"] = [Answer((png,))]
    assert "▀" in piped(scripted.url, "hi\n", "--images", "inline").stdout


def test_nothing_of_the_server_reaches_the_terminal_as_control(scripted: ScriptedServer) -> None:
    evil = "\x1b]0;owned\x07\x9b31m\x08\rA\u202eB"
    hostile = image_part(
        id="x", metadata={"caption": evil + "\n\tC"}, url="http://h/\x1b]8;;\x07\u202e"
    )
    frames = [START_FRAME, frame("text.delta", index=0, text=evil)]
    scripted.script["/v1/chat"] = [
        stream(*frames, frame("image", index=1, **hostile), END_FRAME),
        refusal(400, "invalid_request_error", evil),
    ]
    done = piped(scripted.url, "hi\nagain\n")
    assert done.stdout == ("]0;owned31mAB\n[image: ]0;owned31mAB C] http://h/%1B]8;;%07%E2%80%AE\n")
    assert done.stderr == "error: ]0;owned31mAB\n"


def test_an_image_goes_with_the_next_message_only(
    scripted: ScriptedServer, png: bytes, tmp_path: Path
) -> None:
    path = tmp_path / "my cat.png"
    path.write_bytes(png)
    scripted.script["/v1/chat"] = [reply_stream("A cat.")]
    done = piped(scripted.url, f"/image {path}\n/image '{path}'\nwhat is it?\nsure?\n")
    assert done.stderr.count("my cat.png (7 kB) goes with the next message\n") == 2
    last = scripted.asked_for("/v1/chat")[1].json["messages"]
    assert [part["type"] for part in last[0]["content"]] == ["image_url", "image_url", "text"]
    assert [part["type"] for part in last[2]["content"]] == ["text"]


def test_an_error_is_one_line_and_takes_its_turn_back(scripted: ScriptedServer) -> None:
    scripted.script["/v1/chat"] = [
        refusal(400, "invalid_request_error", "temperature must be\n0 to 2"),
        reply_stream("ok"),
    ]
    done = piped(scripted.url, "one\n/image /no/such.png\n/dance\ntwo\n")
    assert done.stdout == "ok\n"
    assert done.stderr.splitlines() == [
        "error: temperature must be 0 to 2",
        "error: cannot read /no/such.png: No such file or directory",
        "error: unknown command /dance; /help lists them",
    ]
    assert done.returncode == 1
    assert len(scripted.asked_for("/v1/chat")[1].json["messages"]) == 1


def test_a_reply_that_breaks_off_is_kept_and_reported(scripted: ScriptedServer) -> None:
    delta = frame("text.delta", index=0, text="half a")
    scripted.script["/v1/chat"] = [stream(START_FRAME, delta), reply_stream("ok")]
    done = piped(scripted.url, "one\ntwo\n")
    assert done.stdout == "half a\nok\n"
    assert "ended before" in done.stderr
    assert len(scripted.asked_for("/v1/chat")[1].json["messages"]) == 3


def test_commands(scripted: ScriptedServer) -> None:
    scripted.script["/v1/chat"] = [reply_stream("ok")]
    done = piped(scripted.url, "one\n/reset\ntwo\n/help\n/quit\nthree\n")
    assert (done.stdout, done.returncode) == ("ok\nok\n", 0)
    assert "/image PATH" in done.stderr
    messages = [asked.json["messages"] for asked in scripted.asked_for("/v1/chat")]
    assert [len(history) for history in messages] == [1, 1]


def test_turns_left_out_are_told(scripted: ScriptedServer) -> None:
    end = frame("message.end", **{**END, "usage": {**USAGE, "dropped_turns": 2}})
    scripted.script["/v1/chat"] = [stream(START_FRAME, end)]
    assert piped(scripted.url, "hi\n").stderr == "[2 oldest turns left out]\n"


def test_it_waits_for_a_server_that_is_loading(scripted: ScriptedServer) -> None:
    loading = refusal(503, "unavailable_error", "drawing images: 40 %")
    scripted.script["/readyz"] = [loading, loading, Answer()]
    scripted.script["/v1/chat"] = [reply_stream("ok")]
    done = piped(scripted.url, "hi\n")
    assert done.stderr == "waiting for the server: drawing images: 40 %\n"
    assert done.stdout == "ok\n"


def test_no_server() -> None:
    with socket.create_server(("127.0.0.1", 0)) as placeholder:
        port = placeholder.getsockname()[1]
    done = piped(f"http://127.0.0.1:{port}", "hi\n")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"error: cannot reach http://127.0.0.1:{port}")
    assert done.stderr.count("\n") == 1


def test_any_bytes_in_and_any_locale_out(scripted: ScriptedServer) -> None:
    scripted.script["/v1/chat"] = [reply_stream("naïve")]
    odd = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = piped(scripted.url, b"\xff\xfe\n", **odd)
    assert (done.stdout, done.returncode) == ("na?ve\n", 0)


def test_a_reader_that_leaves_is_no_error(scripted: ScriptedServer) -> None:
    scripted.script["/v1/chat"] = [reply_stream("x" * 1000)]
    with open_pipes(scripted.url) as (process, stdin, stdout):
        stdout.close()
        stdin.write(b"hi\nhi\n")
        stdin.close()
        assert process.wait(20) == 0
        assert process.stderr is not None
        assert process.stderr.read() == b""


def test_an_interrupt_ends_a_script(scripted: ScriptedServer) -> None:
    delta = frame("text.delta", index=0, text="half")
    scripted.script["/v1/chat"] = [stream(START_FRAME, delta, stay=True)]
    with open_pipes(scripted.url) as (process, stdin, stdout):
        stdin.write(b"hi\n")
        stdin.flush()
        assert stdout.read(4) == b"half"
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
    assert scripted.left.wait(5)


def test_the_command_line_has_the_same_flags(capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    chat.register(parser.add_subparsers())
    args = parser.parse_args(["chat", "--top-p", "0.9", "--images", "link"])
    assert (args.top_p, args.images, args.url) == (0.9, "link", "http://127.0.0.1:8000")
    assert callable(args.run)
    with pytest.raises(SystemExit):
        parser.parse_args(["chat", "--images", "sixel"])
    assert "sixel" in capsys.readouterr().err
