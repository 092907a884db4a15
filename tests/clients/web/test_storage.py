"""Browsers that keep nothing, or have no room left: the chat goes on, and the page says so."""

import pytest
from playwright.sync_api import expect

from tests.clients.scripted import ScriptedServer, reply_stream
from tests.clients.web.browser import ChatPage

NONE = "IDBFactory.prototype.open = () => { throw new DOMException('no', 'SecurityError'); };"
FULL = """
IDBObjectStore.prototype.put = () => { throw new DOMException("full", "QuotaExceededError"); };
"""
NO_CHOICES = """
Object.defineProperty(window, "localStorage", {get() { throw new DOMException("no"); }});
"""


@pytest.mark.parametrize(
    ("script", "said"),
    [(NONE, "This browser keeps nothing"), (FULL, "The browser's storage is full")],
    ids=["none", "full"],
)
def test_it_is_said_and_the_chat_goes_on(
    scripted: ScriptedServer, scripted_chat: ChatPage, script: str, said: str
) -> None:
    page = scripted_chat
    scripted.script["/v1/chat"] = [reply_stream("yes")]
    page.page.add_init_script(script)
    page.page.reload()
    expect(page.examples.get_by_role("button")).to_have_count(4)
    expect(page.send("one")).to_contain_text("yes")
    expect(page.page.locator("#refusal")).to_contain_text(said)
    page.button("New conversation").click()
    page.send("two")
    page.chats.filter(has_text="one").click()
    expect(page.asked).to_contain_text(["one"])


def test_without_room_for_choices(scripted: ScriptedServer, scripted_chat: ChatPage) -> None:
    page = scripted_chat
    scripted.script["/v1/chat"] = [reply_stream("yes")]
    page.page.add_init_script(NO_CHOICES)
    page.page.reload()
    page.button("Settings and pictures").click()
    page.page.get_by_label("Seed", exact=True).fill("7")
    expect(page.send("hello")).to_contain_text("yes")
    assert scripted.asked_for("/v1/chat")[0].json["seed"] == 7
