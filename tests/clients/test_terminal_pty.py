"""The terminal chat on a terminal: links, pictures, Ctrl-C."""

import base64
import re
import time
from io import BytesIO

import pytest
from PIL import Image

from tests.clients.process import terminal
from tests.clients.scripted import (
    END_FRAME,
    START_FRAME,
    Answer,
    ScriptedServer,
    error,
    frame,
    image_part,
    reply_stream,
    stream,
)

KITTY = {"TERM": "xterm-kitty"}
ITERM2 = {"TERM_PROGRAM": "iTerm.app"}
COLOURS = {"COLORTERM": "truecolor"}
QUIT = "/quit\n"


@pytest.fixture
def elephant(scripted: ScriptedServer, png: bytes) -> ScriptedServer:
    """A server that always shows one picture."""
    picture = frame("image", index=0, **image_part())
    scripted.script["/v1/chat"] = [stream(START_FRAME, picture, END_FRAME)]
    scripted.script["/v1/images/demo/a1"] = [Answer((png,))]
    return scripted


def shown(server: ScriptedServer, *flags: str, **env: str) -> str:
    """What a terminal gets after one line."""
    with terminal(server.url, *flags, **env) as chat:
        chat.expect("> ")
        chat.type("show me\n")
        output = chat.expect("a1.*> ")
        chat.type(QUIT)
        assert chat.process.wait(20) == 0
    return output


def test_what_is_waited_for_takes_one_line(elephant: ScriptedServer) -> None:
    phases = ["drawing: 1 %", "drawing: \x1b[2J2 %", "x" * 999]
    loading = [error(503, "unavailable_error", phase, "not_ready") for phase in phases]
    elephant.script["/readyz"] = [loading[0], *loading, Answer()]
    with terminal(elephant.url) as chat:
        output = chat.expect("> ")
        chat.type(QUIT)
        assert chat.process.wait(20) == 0
    first, second, third, last = re.split("\r\x1b\\[K", output)[1:]
    assert (first, second) == ("waiting for the server: drawing: 1 %", first[:-3] + "[2J2 %")
    assert third.endswith("x…")
    assert len(third) <= 79
    assert last == "> "


def test_kitty(elephant: ScriptedServer, png: bytes) -> None:
    output = shown(elephant, **KITTY)
    chunks = re.findall(r"\x1b_G(?:a=T,f=100,r=16,q=2,)?m=([01]);([^\x1b]*)\x1b\\", output)
    assert [more for more, _ in chunks] == ["1"] * (len(chunks) - 1) + ["0"]
    assert base64.b64decode("".join(data for _, data in chunks)) == png
    assert elephant.asked_for("/v1/images/demo/a1")[0].path.endswith("?size=512")


def test_kitty_takes_png_only(elephant: ScriptedServer) -> None:
    jpeg = BytesIO()
    Image.new("CMYK", (9, 9)).save(jpeg, "JPEG")
    elephant.script["/v1/images/demo/a1"] = [Answer((jpeg.getvalue(),))]
    [data] = re.findall(r"\x1b_G[^;]*;([^\x1b]*)", shown(elephant, **KITTY))
    assert base64.b64decode(data).startswith(b"\x89PNG")


def test_iterm2(elephant: ScriptedServer, png: bytes) -> None:
    [data] = re.findall(r"\x1b\]1337;File=inline=1;[^:]*:([^\x07]*)\x07", shown(elephant, **ITERM2))
    assert base64.b64decode(data) == png


@pytest.mark.parametrize("env", [COLOURS, {**COLOURS, **KITTY, "TMUX": "/tmp/tmux-0/default,1,0"}])
def test_half_blocks(elephant: ScriptedServer, env: dict[str, str]) -> None:
    output = shown(elephant, **env)
    cells = re.findall(r"\x1b\[38;2;(\d+);(\d+);(\d+);48;2;\d+;\d+;\d+m▀", output)
    assert len(cells) == 16 * 32
    assert cells[0] == ("200", "30", "30")
    assert "\x1b_G" not in output


@pytest.mark.parametrize(
    ("flags", "env"),
    [([], {}), (["--images", "link"], KITTY), (["--images", "link"], COLOURS)],
)
def test_a_link_alone(elephant: ScriptedServer, flags: list[str], env: dict[str, str]) -> None:
    output = shown(elephant, *flags, **env)
    address = f"{elephant.url}/v1/images/demo/a1"
    assert f"\x1b]8;;{address}\x1b\\[image: an elephant]\x1b]8;;\x1b\\\r\n" in output
    assert "▀" not in output
    assert "\x1b_G" not in output
    assert elephant.asked_for("/v1/images/demo/a1") == []


def test_a_plain_terminal_gets_plain_text(elephant: ScriptedServer) -> None:
    output = shown(elephant, TERM="dumb")
    assert f"[image: an elephant] {elephant.url}/v1/images/demo/a1\r\n" in output
    assert "\x1b" not in output


@pytest.mark.parametrize(
    ("answer", "env"),
    [
        (Answer((b"no image",)), COLOURS),
        (Answer((b"no image",)), KITTY),
        (Answer(status=500), KITTY),
    ],
)
def test_a_picture_that_will_not_show_is_still_a_link(
    elephant: ScriptedServer, answer: Answer, env: dict[str, str]
) -> None:
    elephant.script["/v1/images/demo/a1"] = [answer]
    output = shown(elephant, **env)
    assert "[image: an elephant]" in output
    assert "Traceback" not in output


def test_a_picture_elsewhere_is_not_fetched(elephant: ScriptedServer) -> None:
    """An address in a collection's metadata must not make this machine call anyone."""
    elsewhere = f"http://localhost:{elephant.server_address[1]}/v1/images/demo/a1"
    picture = frame("image", index=0, **image_part(url=elsewhere))
    elephant.script["/v1/chat"] = [stream(START_FRAME, picture, END_FRAME)]
    assert f"\x1b]8;;{elsewhere}\x1b\\" in shown(elephant, **KITTY)
    assert elephant.asked_for("/v1/images/demo/a1") == []


def test_ctrl_c_stops_the_reply_and_not_the_chat(scripted: ScriptedServer) -> None:
    delta = frame("text.delta", index=0, text="and on and on")
    scripted.script["/v1/chat"] = [stream(START_FRAME, delta, stay=True), reply_stream("Yes?")]
    with terminal(scripted.url) as chat:
        chat.expect("> ")
        chat.type("tell me a story\n")
        chat.expect("and on and on")
        chat.type("\x03")
        chat.expect(r"\[stopped\]\r\n> ")
        assert scripted.left.wait(5)
        chat.type("enough\n")
        chat.expect("Yes[?]\r\n> ")
        chat.type(QUIT)
        assert chat.process.wait(20) == 0
    roles = [message["role"] for message in scripted.asked_for("/v1/chat")[1].json["messages"]]
    assert roles == ["user", "assistant", "user"]


def test_ctrl_c_before_anything_came_takes_the_question_back(scripted: ScriptedServer) -> None:
    scripted.script["/v1/chat"] = [stream(START_FRAME, stay=True), reply_stream("Yes?")]
    with terminal(scripted.url) as chat:
        chat.expect("> ")
        chat.type("hello\n")
        chat.expect("hello")
        while not scripted.asked_for("/v1/chat"):
            time.sleep(0.01)
        chat.type("\x03")
        chat.expect(r"\[stopped\]\r\n> ")
        chat.type("again\n")
        chat.expect("Yes[?]\r\n> ")
        chat.type(QUIT)
        assert chat.process.wait(20) == 0
    [message] = scripted.asked_for("/v1/chat")[1].json["messages"]
    assert message["content"][0]["text"] == "again"


def test_ctrl_c_and_ctrl_d_at_the_prompt(scripted: ScriptedServer) -> None:
    with terminal(scripted.url) as chat:
        chat.expect("> ")
        chat.type("half a line")
        chat.expect("half a line")
        chat.interrupt("/quit or Ctrl-D leaves\r\n> ")
        chat.type("\x04")
        assert chat.process.wait(20) == 0
    assert scripted.asked_for("/v1/chat") == []
