"""Several tabs of one browser: they share the conversations, and none undoes another's."""

from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests.clients.scripted import END_FRAME, START_FRAME, ScriptedServer, reply_stream, stream
from tests.clients.web import world
from tests.clients.web.browser import ChatPage
from tests.clients.web.scripting import answer, deltas

pytestmark = pytest.mark.slow  # a server of its own, half a minute

SLOW = stream(START_FRAME, *deltas("slow", "ly, ", "all ", "that"), END_FRAME, pause=0.8)
# A tab that hears of the others too late.
DEAF = "window.BroadcastChannel = class { postMessage() {} };"


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


@pytest.fixture
def second(first: ChatPage) -> ChatPage:
    """Another tab with the same conversation."""
    tab = first.second()
    expect(tab.replies).to_have_count(1)
    return tab


@pytest.fixture
def growing(first: ChatPage, second: ChatPage, scripted: ScriptedServer) -> ChatPage:
    """The second tab, while the first one takes in a reply."""
    scripted.script["/v1/chat"] = [SLOW, reply_stream("then")]
    first.message.fill("two")
    first.message.press("Enter")
    reply = second.replies.nth(1)
    expect(reply).to_contain_text("slow")
    expect(reply).to_have_attribute("aria-busy", "true")
    return second


def test_what_one_says_the_other_shows(first: ChatPage, second: ChatPage) -> None:
    first.send("two")
    expect(second.asked).to_contain_text(["one", "two"])
    expect(second.finished(1)).to_contain_text("quickly")
    second.send("three")
    expect(first.asked).to_contain_text(["one", "two", "three"])
    first.page.reload()
    expect(first.replies).to_have_count(3)
    expect(first.chats).to_have_count(1)


def test_what_is_being_done_stays(first: ChatPage, second: ChatPage) -> None:
    """Written, edited, focused: what the other tab adds disturbs nothing."""
    second.message.fill("half a sen")
    second.asked.hover()
    second.asked.get_by_role("button", name="Edit and send again").click()
    expect(second.message).to_have_value("one")
    second.message.fill("one, again")
    link = second.chats.first
    link.focus()
    first.send("two")
    expect(second.finished(1)).to_be_visible()
    expect(link).to_be_focused()
    expect(second.message).to_have_value("one, again")
    second.button("Cancel").click()
    expect(second.message).to_have_value("half a sen")


def test_a_reply_on_its_way_is_seen_to_grow(growing: ChatPage) -> None:
    growing.message.fill("three")
    growing.message.press("Enter")
    expect(growing.page.locator("#problem")).to_contain_text("being answered in another tab")
    expect(growing.finished(1)).to_contain_text("slowly, all that")
    growing.message.press("Enter")
    expect(growing.finished(2)).to_contain_text("then")
    expect(growing.chats).to_have_count(1)


def test_stopped_and_asked_again_at_once(
    first: ChatPage, growing: ChatPage, scripted: ScriptedServer
) -> None:
    """The tab that waits for the end does not take the next reply for one that is cut off."""
    scripted.script["/v1/chat"] = [SLOW]
    first.page.evaluate(
        """() => {
          document.querySelector("#stop").click();
          document.querySelector("#message").value = "three";
          document.querySelector("#composer").requestSubmit();
        }"""
    )
    reply = growing.replies.nth(2)
    expect(reply).to_contain_text("slow")
    expect(reply).to_have_attribute("aria-busy", "true")
    expect(growing.finished(2)).to_contain_text("slowly, all that")
    expect(first.chats).to_have_count(1)


def test_a_tab_that_is_closed_leaves_a_reply_cut_off(first: ChatPage, growing: ChatPage) -> None:
    first.page.close()
    expect(growing.finished(1)).to_contain_text("The reply was cut off.")
    growing.button("Try again").click()
    expect(growing.finished(1)).to_contain_text("then")


def test_renamed_in_the_other(first: ChatPage, growing: ChatPage) -> None:
    growing.button("This conversation: rename, export, delete").click()
    growing.button("Rename…").click()
    growing.page.get_by_role("textbox", name="Title").fill("Numbers")
    growing.button("Rename").click()
    expect(first.finished(1)).to_contain_text("slowly, all that")
    expect(first.chats).to_have_text(["Numbers"])
    first.page.reload()
    expect(first.finished(1)).to_contain_text("slowly, all that")
    expect(first.chats).to_have_text(["Numbers"])


def test_deleted_in_the_other(first: ChatPage, growing: ChatPage) -> None:
    growing.button("This conversation: rename, export, delete").click()
    growing.button("Delete…").click()
    growing.button("Delete").click()
    expect(first.examples).to_be_visible()
    expect(first.page.locator("#announcer")).to_have_text(
        "The conversation was deleted in another tab."
    )
    for page in (first, growing):
        page.page.reload()
        expect(page.message).to_be_enabled()
        expect(page.chats).to_have_count(0)


def test_two_at_once_become_two_conversations(first: ChatPage, scripted: ScriptedServer) -> None:
    first.page.context.add_init_script(DEAF)
    second = first.second()
    expect(second.replies).to_have_count(1)
    scripted.script["/v1/chat"] = [SLOW, reply_stream("meanwhile")]
    first.message.fill("two")
    first.message.press("Enter")
    expect(first.replies.nth(1)).to_contain_text("slow")
    second.send("three")
    first.finished(1)
    said = [["one", "two"], ["one", "three"]]
    for page, words in zip((first, second), said, strict=True):
        page.page.reload()
        expect(page.asked).to_contain_text(words)
        expect(page.chats).to_have_count(2)
        picture = page.asked.first.get_by_role("img")
        expect(picture).to_have_js_property("naturalWidth", 240)
    assert first.page.url != second.page.url


@pytest.mark.parametrize("what", ["Rename", "Delete"])
def test_a_question_is_about_the_conversation_that_it_names(first: ChatPage, what: str) -> None:
    first.button("New conversation").click()
    first.send("another")
    first.button("This conversation: rename, export, delete").click()
    first.button(f"{what}…").click()
    first.page.go_back()
    first.page.go_back()
    expect(first.asked).to_contain_text(["one"])
    expect(first.page.get_by_role("dialog")).to_have_count(0)
    expect(first.chats).to_have_text(["another", "one"])


def test_renamed_while_the_other_goes_on(first: ChatPage, second: ChatPage) -> None:
    second.button("This conversation: rename, export, delete").click()
    second.button("Rename…").click()
    first.send("two")
    expect(second.replies).to_have_count(2)
    second.page.get_by_role("textbox", name="Title").fill("Numbers")
    second.button("Rename").click()
    for page in (first, second):
        expect(page.chats).to_have_text(["Numbers"])
        page.page.reload()
        expect(page.chats).to_have_text(["Numbers"])
        expect(page.replies).to_have_count(2)


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
