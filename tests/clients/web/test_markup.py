"""What models, owners and users write is shown as it is written, never run as HTML."""

import pytest
from playwright.sync_api import expect

from tests.clients.scripted import (
    END_FRAME,
    START_FRAME,
    ScriptedServer,
    frame,
    image,
    image_part,
    stream,
)
from tests.clients.web.browser import ChatPage
from tests.clients.web.scripting import deltas
from tests.clients.web.world import MARKUP

pytestmark = pytest.mark.slow  # a server of its own, half a minute

WICKED = {"caption": MARKUP, "source": MARKUP, "attribution": MARKUP, "license": "<i>free</i>"}


def unharmed(page: ChatPage) -> None:
    assert page.page.evaluate("window.harmed === undefined")
    assert page.page.locator("[onerror], script:not([src])").count() == 0


def test_everything_a_server_says(scripted: ScriptedServer, scripted_chat: ChatPage) -> None:
    page = scripted_chat
    wicked = image_part(key=MARKUP, metadata=WICKED)
    wicked["alternatives"] = [image("a2", key=MARKUP, metadata=WICKED)]
    scripted.script["/v1/chat"] = [
        stream(START_FRAME, *deltas("<b>hello</b>", MARKUP), frame("image", index=1, **wicked),
               END_FRAME)
    ]  # fmt: skip
    reply = page.send(f"<u>me</u> {MARKUP}")
    expect(reply.locator(".text")).to_have_text(f"<b>hello</b>{MARKUP}")
    expect(page.asked.locator(".text")).to_have_text(f"<u>me</u> {MARKUP}")
    expect(page.page.locator("#credit")).to_have_text(f"Pictures: {MARKUP} (<i>free</i>)")
    page.pictures.click()
    dialog = page.page.get_by_role("dialog", name=MARKUP)
    expect(dialog.get_by_role("definition").filter(has_text=MARKUP)).to_have_count(3)
    unharmed(page)


def test_a_picture_kept_elsewhere_is_a_link(
    scripted: ScriptedServer, scripted_chat: ChatPage
) -> None:
    """The page asks nobody else for anything, and follows no other kind of address."""
    there = image_part(key="there", metadata={}, url="https://pictures.example/1.jpg", width=None)
    wicked = image_part(key="wicked", metadata={}, url="javascript:alert(1)", width=None)
    scripted.script["/v1/chat"] = [
        stream(START_FRAME, frame("image", index=0, **there), frame("image", index=1, **wicked),
               END_FRAME)
    ]  # fmt: skip
    requested: list[str] = []
    scripted_chat.page.on("request", lambda request: requested.append(request.url))
    reply = scripted_chat.send("show me")
    expect(reply).to_contain_text("wicked")
    links = reply.get_by_role("link")
    expect(links).to_have_count(1)
    expect(links).to_have_attribute("href", "https://pictures.example/1.jpg")
    assert all(url.startswith(scripted.url) for url in requested)


def test_a_collection_with_such_names(page: ChatPage) -> None:
    """With a real server: file names and captions that are markup."""
    page.open_ready()
    page.button("Settings and pictures").click()
    page.page.get_by_role("combobox", name="Collection").select_option("wicked")
    page.button("Close the settings").click()
    page.send("show me an elephant")
    expect(page.pictures.first).to_be_visible()
    page.pictures.first.click()
    dialog = page.page.get_by_role("dialog")
    expect(dialog.get_by_role("heading", level=2)).to_have_text(f"<b>bold</b> {MARKUP}")
    expect(dialog).to_contain_text("<script>alert(1)</script>")
    unharmed(page)
