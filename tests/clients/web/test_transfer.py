"""Conversations as files."""

import json
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from tests.clients.web import world
from tests.clients.web.browser import ChatPage
from tests.clients.web.world import MARKUP

pytestmark = pytest.mark.slow  # a server of its own, half a minute


@pytest.fixture
def talked(page: ChatPage, tmp_path: Path) -> ChatPage:
    """With a conversation that has a picture sent and a picture shown."""
    item = world.sent_picture()
    (tmp_path / item.key).write_bytes(item.image)
    page.open_ready()
    page.page.set_input_files("#files", tmp_path / item.key)
    expect(page.page.locator(".attachment.ready")).to_have_count(1)
    page.send(f"what is this? {MARKUP}")
    page.send("show me an elephant")
    return page


def export(page: ChatPage, item: str, path: Path) -> Path:
    page.button("This conversation: rename, export, delete").click()
    with page.page.expect_download() as download:
        page.button(item).click()
    download.value.save_as(path)
    return path


def test_there_and_back(talked: ChatPage, tmp_path: Path) -> None:
    file = export(talked, "Export as JSON", tmp_path / "conversation.json")
    whole = json.loads(file.read_text())
    assert whole["format"] == "fromage-conversation"
    assert [message["role"] for message in whole["conversation"]["messages"]] == [
        *("user", "assistant") * 2
    ]
    words = talked.page.locator("#messages").inner_text()
    talked.button("New conversation").click()
    talked.page.set_input_files("#import-file", file)
    expect(talked.replies).to_have_count(2)
    assert talked.page.locator("#messages").inner_text() == words
    sent = talked.asked.first.get_by_role("img")
    expect(sent).to_have_js_property("complete", True)
    assert sent.evaluate("image => image.naturalWidth") == 240
    chats = talked.page.get_by_role("navigation", name="Conversations").get_by_role("listitem")
    expect(chats).to_have_count(2)
    talked.send("and two of them")
    expect(talked.replies).to_have_count(3)
    talked.asked.first.hover()
    talked.asked.first.get_by_role("button", name="Edit and send again").click()
    expect(talked.page.locator(".attachment.ready")).to_have_count(1)
    talked.message.fill("how many are there?")
    talked.message.press("Enter")
    expect(talked.replies).to_have_count(1)
    expect(talked.finished(0)).to_contain_text("two")


def test_another_file_is_refused(page: ChatPage, tmp_path: Path) -> None:
    page.open_ready()
    for text in ("no JSON", "[]", '{"format": "fromage-conversation", "version": 9}'):
        (tmp_path / "other.json").write_text(text)
        page.page.set_input_files("#import-file", tmp_path / "other.json")
        expect(page.page.locator("#problem")).to_contain_text("other.json is not a conversation")
        page.message.fill("")


def test_the_same_file_twice(talked: ChatPage, tmp_path: Path) -> None:
    """Deleting the one takes nothing from the other."""
    file = export(talked, "Export as JSON", tmp_path / "conversation.json")
    for number in (2, 3):
        talked.page.set_input_files("#import-file", file)
        expect(talked.chats).to_have_count(number)
    talked.button("This conversation: rename, export, delete").click()
    talked.button("Delete…").click()
    talked.button("Delete").click()
    expect(talked.chats).to_have_count(2)
    for place in (0, 1):
        talked.chats.nth(place).click()
        talked.page.reload()
        picture = talked.asked.first.get_by_role("img")
        expect(picture).to_have_js_property("naturalWidth", 240)


IMAGE = {"id": "a1", "collection": "demo", "key": "a.png", "score": 0.5}
SHOWN = {"type": "image", "ret_index": 0, "image": IMAGE, "alternatives": []}


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image", "ret_index": 0, "image": {"id": "a1"}},
        {**SHOWN, "image": {**IMAGE, "score": "high"}},
        {**SHOWN, "alternatives": [None]},
        {**SHOWN, "alternatives": 7},
        {"type": "text", "text": 7},
        {"type": "image", "image": {}, "local": {"picture": 3}},
        {"type": "image", "image": {}, "local": {"picture": "p", "name": "n"}},
        {"type": "song"},
        None,
    ],
)
def test_what_is_not_sound_is_refused_and_not_kept(
    page: ChatPage, tmp_path: Path, part: object
) -> None:
    message = {"role": "assistant", "content": [SHOWN, part]}
    whole = {
        "format": "fromage-conversation",
        "version": 1,
        "conversation": {"title": "odd", "messages": [message]},
        "pictures": {"p": "data:image/png;base64,A"},
    }
    (tmp_path / "odd.json").write_text(json.dumps(whole))
    page.open_ready()
    page.page.set_input_files("#import-file", tmp_path / "odd.json")
    expect(page.page.locator("#problem")).to_contain_text("odd.json is not a conversation")
    expect(page.chats).to_have_count(0)
    page.page.reload()
    expect(page.examples.get_by_role("button")).to_have_count(4)


def test_what_a_file_lacks_is_done_without(page: ChatPage, tmp_path: Path) -> None:
    large = {"width": 900, "height": 900}
    own = {"type": "image", "image": large, "local": {"picture": "lost", "name": "mine.png"}}
    shown = {"type": "image", "image": {**IMAGE, **large}}
    reply = {"role": "assistant", "content": [SHOWN], "usage": {}, "timings": "long"}
    messages = [{"role": "user", "content": [own, shown]}, reply]
    whole = {"format": "fromage-conversation", "version": 1, "conversation": {"messages": messages}}
    (tmp_path / "bare.json").write_text(json.dumps(whole))
    page.open_ready()
    page.page.set_input_files("#import-file", tmp_path / "bare.json")
    expect(page.chats).to_have_text(["A picture"])
    expect(page.asked).to_contain_text("no longer kept by this browser")
    expect(page.replies).to_contain_text("The reply was cut off.")
    expect(page.send("hello")).not_to_contain_text("no longer kept")


def test_what_is_kept_and_broken_does_not_stop_the_page(page: ChatPage) -> None:
    page.open_ready()
    page.send("hello")
    page.page.evaluate(
        """async () => {
          const request = indexedDB.open("fromage");
          await new Promise((resolve) => (request.onsuccess = resolve));
          const kept = request.result.transaction("conversations", "readwrite");
          const store = kept.objectStore("conversations");
          store.put({ id: location.hash.slice(3), title: "odd", messages: [{ role: "user" }] });
          await new Promise((resolve) => (kept.oncomplete = resolve));
        }"""
    )
    page.page.reload()
    expect(page.page.get_by_role("dialog")).to_contain_text("cannot be shown")
    page.button("Delete it").click()
    expect(page.chats).to_have_count(0)
    expect(page.send("hello again")).to_be_visible()


def test_a_web_page_that_needs_nothing_else(
    talked: ChatPage, chromium: Browser, tmp_path: Path
) -> None:
    file = export(talked, "Export as a web page", tmp_path / "conversation.html")
    page = chromium.new_page(offline=True, java_script_enabled=True)
    requested: list[str] = []
    page.on("request", lambda request: requested.append(request.url))
    page.goto(file.as_uri())
    assert [url for url in requested if not url.startswith(("file:", "data:"))] == []
    assert page.evaluate("window.harmed === undefined")
    expect(page.locator("article.user p").first).to_have_text(f"what is this? {MARKUP}")
    images = page.get_by_role("img")
    expect(images).to_have_count(2)
    for image in images.all():
        assert image.evaluate("image => image.naturalWidth") == 240
    expect(page.get_by_role("contentinfo")).to_contain_text("OpenMoji")
    page.close()
