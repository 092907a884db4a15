"""Several tabs of one browser: they share the conversations, and none undoes another's."""

from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests.clients.scripted import END_FRAME, START_FRAME, ScriptedServer, reply_stream, stream
from tests.clients.web import world
from tests.clients.web.browser import ChatPage
from tests.clients.web.scripting import answer, deltas

SLOW = stream(START_FRAME, *deltas("slow", "ly, ", "all ", "that"), END_FRAME, pause=0.8)


@pytest.fixture
def first(scripted: ScriptedServer, scripted_chat: ChatPage, tmp_path: Path) -> ChatPage:
    """A tab with a conversation of one turn, in which a picture was sent."""
    item = world.sent_picture()
    (tmp_path / item.key).write_bytes(item.image)
    kept = answer(id="up_1", width=240, height=240, expires_at=4_000_000_000)
    scripted.script["/v1/uploads"] = [kept]
    scripted.script["/v1/chat"] = [reply_stream("quickly")]
    scripted_chat.page.set_input_files("#files", tmp_path / item.key)
    expect(scripted_chat.page.locator(".attachment.ready")).to_have_count(1)
    scripted_chat.send("one")
    return scripted_chat


def test_what_one_says_the_other_shows(first: ChatPage) -> None:
    second = first.second()
    expect(second.replies).to_have_count(1)
    first.send("two")
    expect(second.asked).to_contain_text(["one", "two"])
    expect(second.replies).to_contain_text(["quickly", "quickly"])
    second.send("three")
    expect(first.asked).to_contain_text(["one", "two", "three"])
    first.page.reload()
    expect(first.replies).to_have_count(3)
    expect(first.chats).to_have_count(1)


def test_what_is_being_written_stays(first: ChatPage) -> None:
    second = first.second()
    expect(second.replies).to_have_count(1)
    second.message.fill("half a sen")
    first.send("two")
    expect(second.replies).to_have_count(2)
    expect(second.message).to_have_value("half a sen")


def test_a_reply_on_its_way_is_seen_to_grow(first: ChatPage, scripted: ScriptedServer) -> None:
    second = first.second()
    expect(second.replies).to_have_count(1)
    scripted.script["/v1/chat"] = [SLOW]
    first.message.fill("two")
    first.message.press("Enter")
    reply = second.replies.nth(1)
    expect(reply).to_contain_text("slow")
    expect(reply).to_have_attribute("aria-busy", "true")
    expect(second.finished(1)).to_contain_text("slowly, all that")


def test_two_at_once_become_two_conversations(first: ChatPage, scripted: ScriptedServer) -> None:
    second = first.second()
    expect(second.replies).to_have_count(1)
    scripted.script["/v1/chat"] = [SLOW, reply_stream("meanwhile")]
    first.message.fill("two")
    first.message.press("Enter")
    expect(first.replies.nth(1)).to_contain_text("slow")
    second.send("three")
    first.finished(1)
    said = [["one", "two"], ["one", "two", "three"]]
    for page, words in zip((first, second), said, strict=True):
        expect(page.asked).to_contain_text(words)
        expect(page.chats).to_have_count(2)
        page.page.reload()
        expect(page.asked).to_contain_text(words)
        picture = page.asked.first.get_by_role("img")
        expect(picture).to_have_js_property("naturalWidth", 240)
    assert first.page.url != second.page.url


def test_deleted_in_the_other(first: ChatPage) -> None:
    second = first.second()
    expect(second.replies).to_have_count(1)
    first.button("This conversation: rename, export, delete").click()
    first.button("Delete…").click()
    first.button("Delete").click()
    expect(second.examples).to_be_visible()
    expect(second.page.locator("#announcer")).to_have_text(
        "The conversation was deleted in another tab."
    )
    expect(second.chats).to_have_count(0)


def test_back_leads_past_what_was_deleted(first: ChatPage) -> None:
    first.button("New conversation").click()
    expect(first.examples).to_be_visible()
    first.send("another")
    first.chats.filter(has_text="one").click()
    expect(first.asked).to_contain_text(["one"])
    first.button("This conversation: rename, export, delete").click()
    first.button("Delete…").click()
    first.button("Delete").click()
    expect(first.examples).to_be_visible()
    first.page.go_back()
    expect(first.asked).to_contain_text(["another"])
    for _ in range(2):
        first.page.go_back()
        expect(first.examples).to_be_visible()
    for _ in range(2):
        first.page.go_forward()
    expect(first.asked).to_contain_text(["another"])
