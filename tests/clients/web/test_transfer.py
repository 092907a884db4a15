"""Conversations as files."""

import json
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from tests.clients.web import world
from tests.clients.web.browser import ChatPage
from tests.clients.web.world import MARKUP


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


def test_another_file_is_refused(page: ChatPage, tmp_path: Path) -> None:
    page.open_ready()
    for text in ("no JSON", "[]", '{"format": "fromage-conversation", "version": 9}'):
        (tmp_path / "other.json").write_text(text)
        page.page.set_input_files("#import-file", tmp_path / "other.json")
        expect(page.page.locator("#problem")).to_contain_text("other.json is not a conversation")
        page.message.fill("")


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
