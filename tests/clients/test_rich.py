"""What a notebook and a terminal show of replies: everything that others wrote is text."""

import base64
import sys
from html.parser import HTMLParser
from types import SimpleNamespace
from typing import Any

import pytest

from fromage_client import Client, ImageRef, Reply, Retrieval
from tests.clients.scripted import END, Answer, ScriptedServer, answer, image, image_part

EVIL = '</p><script>alert(1)</script><img src=x onerror="alert(2)">\x1b[31m&amp;'
ALLOWED = {
    "div": set(),
    "p": {"style"},
    "figure": {"style"},
    "img": {"src", "alt", "width", "height", "style"},
    "figcaption": set(),
}


class Seen(HTMLParser):
    """A page's elements with their attributes, and its text. Refuses what was not written here."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.images: list[dict[str, str | None]] = []
        self.text = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert {name for name, _ in attrs} <= ALLOWED[tag]
        if tag == "img":
            self.images.append(dict(attrs))

    def handle_data(self, data: str) -> None:
        self.text += data


def reply(server: str, *content: dict[str, Any]) -> Reply:
    return Reply.from_json({"id": "r", "model": "m", "content": content, **END}, server)


def text(words: str) -> dict[str, str]:
    return {"type": "text", "text": words}


def test_nothing_in_a_reply_is_markup() -> None:
    hostile = image_part(url="javascript:alert(3)", metadata={"caption": EVIL}, key=EVIL)
    seen = Seen(reply("", text(EVIL), hostile)._repr_html_())
    assert seen.text.startswith(EVIL)
    [shown] = seen.images
    assert shown["src"] == ""
    assert shown["alt"] == EVIL.replace("\x1b", "") + " (0.50)"


def test_the_pictures_are_in_the_page(scripted: ScriptedServer, png: bytes) -> None:
    scripted.script["/v1/images/demo/a1"] = [Answer((png,))]
    seen = Seen(reply(scripted.url, text("Here:"), image_part())._repr_html_())
    [shown] = seen.images
    assert shown["src"] == "data:image/png;base64," + base64.b64encode(png).decode()
    assert (shown["width"], shown["height"]) == ("64", "64")
    assert seen.text == "Here:an elephant (0.50)"
    assert scripted.asked[0].path.endswith("?size=512")


@pytest.mark.parametrize("found", [Answer(status=404), Answer((b"<svg onload='alert(1)'/>",))])
def test_a_picture_that_is_none_is_left_to_its_address(
    scripted: ScriptedServer, found: Answer
) -> None:
    scripted.script["/v1/images/demo/a1"] = [found]
    [shown] = Seen(reply(scripted.url, image_part())._repr_html_()).images
    assert shown["src"] == f"{scripted.url}/v1/images/demo/a1"


def test_another_hosts_picture_is_left_to_the_browser(scripted: ScriptedServer) -> None:
    elsewhere = image_part(url=f"{scripted.url}/secret?a=1&b=2", width=None, height=None)
    [shown] = Seen(reply("http://server", elsewhere)._repr_html_()).images
    assert shown["src"] == f"{scripted.url}/secret?a=1&b=2"
    assert "width" not in shown
    assert scripted.asked == []


def test_printed_it_is_text_and_addresses(capsys: pytest.CaptureFixture[str]) -> None:
    shown = reply("http://h", text("Here\x1b[2J:\n"), image_part(), text("\nNice?"))
    shown.show()
    link = "[image: an elephant (0.50)] http://h/v1/images/demo/a1"
    assert capsys.readouterr().out == f"Here[2J:\n{link}\nNice?\n"


def test_in_a_notebook_it_is_displayed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel as far as `show` looks at one; the notebook's test has a real one."""
    displayed: list[Any] = []
    ipython = SimpleNamespace(
        get_ipython=lambda: object(), display=SimpleNamespace(display=displayed.append)
    )
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    shown = reply("", text("hi"))
    shown.show()
    assert displayed == [shown]
    assert shown._repr_mimebundle_()["text/plain"] == "hi"
    assert "hi" in shown._repr_mimebundle_()["text/html"]


def test_a_retrieval_and_an_image_show_themselves(scripted: ScriptedServer, png: bytes) -> None:
    scripted.script["/v1/images/demo/a1"] = scripted.script["/v1/images/demo/a2"] = [Answer((png,))]
    found = Retrieval.from_json({"images": [image(), image("a2", score=0.25)]}, scripted.url)
    assert [shown["alt"] for shown in Seen(found._repr_html_()).images] == [
        "an elephant (0.50)",
        "an elephant (0.25)",
    ]
    assert len(Seen(found.images[0]._repr_html_()).images) == 1


def test_an_image_is_read_and_saved_after_the_client_is_gone(
    scripted: ScriptedServer, png: bytes, tmp_path: Any
) -> None:
    scripted.script["/v1/images/demo/a1"] = [Answer((png,))]
    content = {"id": "r", "model": "m", "content": [image_part()], **END}
    scripted.script["/v1/chat"] = [answer(content)]
    with Client(scripted.url) as client:
        [shown] = client.chat("hi").images
    assert shown.read() == png
    path = shown.save(tmp_path / "a.png", size=64)
    assert path.read_bytes() == png
    assert scripted.asked_for("/v1/images/demo/a1")[1].path.endswith("?size=64")


def test_a_caption_where_there_is_one() -> None:
    plain = ImageRef("i", "c", "key.png", "data:image/png;base64,AAE=", metadata={"caption": 3})
    assert plain.label == "key.png"
    assert plain.read() == b"\0\1"
    assert plain.address == plain.url
