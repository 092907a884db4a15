"""Browsers that keep nothing, or have no room left: the chat goes on, and the page says so."""

from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests.clients.scripted import END_FRAME, START_FRAME, ScriptedServer, reply_stream, stream
from tests.clients.web import world
from tests.clients.web.browser import ChatPage
from tests.clients.web.scripting import answer, deltas

NONE = "IDBFactory.prototype.open = () => { throw new DOMException('no', 'SecurityError'); };"
FULL = """
IDBObjectStore.prototype.put = () => { throw new DOMException("full", "QuotaExceededError"); };
"""
# `refuses(value)` decides, and can be set later.
AT_TIMES = """
window.refuses = () => false;
const put = IDBObjectStore.prototype.put;
IDBObjectStore.prototype.put = function (value) {
  if (refuses(value)) throw new DOMException("full", "QuotaExceededError");
  return put.call(this, value);
};
"""
NO_CHOICES = """
Object.defineProperty(window, "localStorage", {get() { throw new DOMException("no"); }});
"""


def _hindered(scripted: ScriptedServer, chat: ChatPage, script: str) -> ChatPage:
    """The page with ``script`` run before its own; it is always answered "yes"."""
    scripted.script["/v1/chat"] = [reply_stream("yes")]
    chat.page.add_init_script(script)
    chat.page.reload()
    return chat


@pytest.mark.parametrize(
    ("script", "said"),
    [(NONE, "This browser keeps nothing"), (FULL, "The browser's storage is full")],
    ids=["none", "full"],
)
def test_it_is_said_and_the_chat_goes_on(
    scripted: ScriptedServer, scripted_chat: ChatPage, script: str, said: str
) -> None:
    page = _hindered(scripted, scripted_chat, script)
    expect(page.examples.get_by_role("button")).to_have_count(4)
    expect(page.send("one")).to_contain_text("yes")
    expect(page.page.locator("#refusal")).to_contain_text(said)
    page.button("New conversation").click()
    page.send("two")
    page.chats.filter(has_text="one").click()
    expect(page.asked).to_contain_text(["one"])


def test_room_that_is_short_for_a_while(scripted: ScriptedServer, scripted_chat: ChatPage) -> None:
    """What could not be kept is kept later, in one conversation."""
    page = _hindered(scripted, scripted_chat, AT_TIMES)
    page.send("one")
    refusal = page.page.locator("#refusal")
    expect(refusal).to_be_hidden()
    page.page.evaluate("void (refuses = () => true)")
    page.send("two")
    expect(refusal).to_contain_text("The browser's storage is full")
    expect(page.chats).to_have_text(["one"])
    page.page.evaluate("void (refuses = () => false)")
    page.send("three")
    expect(refusal).to_be_hidden()
    page.page.reload()
    expect(page.replies).to_have_count(3)
    expect(page.chats).to_have_text(["one"])


def test_room_made_by_deleting(scripted: ScriptedServer, scripted_chat: ChatPage) -> None:
    page = _hindered(scripted, scripted_chat, AT_TIMES)
    page.send("old")
    page.button("New conversation").click()
    page.page.evaluate("void (refuses = () => true)")
    page.send("important")
    page.chats.filter(has_text="old").click()
    expect(page.asked).to_contain_text(["old"])
    page.page.evaluate("void (refuses = () => false)")
    page.button("This conversation: rename, export, delete").click()
    page.button("Delete…").click()
    page.button("Delete").click()
    expect(page.chats).to_have_text(["important"])
    expect(page.page.locator("#refusal")).to_be_hidden()
    page.page.reload()
    page.chats.click()
    expect(page.asked).to_contain_text(["important"])


def test_renamed_while_it_is_answered(scripted: ScriptedServer, scripted_chat: ChatPage) -> None:
    page = scripted_chat
    slow = stream(START_FRAME, *deltas("slow", "ly"), END_FRAME, pause=1.5)
    scripted.script["/v1/chat"] = [slow, reply_stream("then")]
    page.page.add_init_script(NONE)
    page.page.reload()
    expect(page.message).to_be_enabled()
    page.message.fill("one")
    page.message.press("Enter")
    expect(page.replies).to_contain_text("slow")
    page.button("This conversation: rename, export, delete").click()
    page.button("Rename…").click()
    page.page.get_by_role("textbox", name="Title").fill("Numbers")
    page.button("Rename").click()
    expect(page.chats).to_have_text(["Numbers"])
    expect(page.finished(0)).to_contain_text("slowly")
    expect(page.send("two")).to_contain_text("then")


@pytest.fixture
def unkept(scripted: ScriptedServer, scripted_chat: ChatPage, tmp_path: Path) -> ChatPage:
    """With a conversation of one turn, whose picture the browser had no room for."""
    page = scripted_chat
    item = world.sent_picture()
    (tmp_path / item.key).write_bytes(item.image)
    scripted.script["/v1/uploads"] = [answer(id="up_1", width=240, height=240, expires_at=1)]
    scripted.script["/v1/chat"] = [reply_stream("yes")]
    page.page.add_init_script(AT_TIMES)
    page.page.reload()
    page.page.evaluate("void (refuses = (value) => Boolean(value.blob))")
    page.page.set_input_files("#files", tmp_path / item.key)
    expect(page.page.locator(".attachment.ready")).to_have_count(1)
    page.send("look")
    return page


def test_a_picture_that_is_not_kept(scripted: ScriptedServer, unkept: ChatPage) -> None:
    """It is said for as long as it holds, and without the picture the conversation goes on."""
    unkept.send("and now?")
    expect(unkept.page.locator("#refusal")).to_contain_text("The browser's storage is full")
    unkept.page.reload()
    expect(unkept.send("and later?")).to_contain_text("yes")
    expect(unkept.page.locator("#refusal")).to_be_hidden()
    expect(unkept.asked.first).to_contain_text("no longer kept by this browser")
    sent = scripted.asked_for("/v1/chat")[-1].json["messages"][0]
    assert sent["content"] == [{"type": "text", "text": "look"}]


def test_a_picture_that_is_kept_later(unkept: ChatPage) -> None:
    unkept.page.evaluate("void (refuses = () => false)")
    unkept.send("and now?")
    expect(unkept.page.locator("#refusal")).to_be_hidden()
    unkept.page.reload()
    picture = unkept.asked.first.get_by_role("img")
    expect(picture).to_have_js_property("naturalWidth", 240)


def test_without_room_for_choices(scripted: ScriptedServer, scripted_chat: ChatPage) -> None:
    page = scripted_chat
    scripted.script["/v1/chat"] = [reply_stream("yes")]
    page.page.add_init_script(NO_CHOICES)
    page.page.reload()
    page.button("Settings and pictures").click()
    page.page.get_by_label("Seed", exact=True).fill("7")
    expect(page.send("hello")).to_contain_text("yes")
    assert scripted.asked_for("/v1/chat")[0].json["seed"] == 7
