"""Collections on the page: looking, adding, deleting, making and dropping one."""

import re
from pathlib import Path

import pytest
from playwright.sync_api import Locator, expect

from tests.clients.scripted import ScriptedServer, image
from tests.clients.web import world
from tests.clients.web.browser import ChatPage
from tests.clients.web.scripting import CARD, answer, failure


@pytest.fixture
def shelf(page: ChatPage) -> Locator:
    """The dialog of the collections, opened on the default one."""
    page.open_ready()
    page.button("Settings and pictures").click()
    page.button("Look at the pictures…").click()
    dialog = page.page.get_by_role("dialog", name="Pictures")
    expect(dialog.get_by_text(f"{len(world.SCENES)} pictures")).to_be_visible()
    return dialog


def add(dialog: Locator, *files: Path) -> None:
    dialog.get_by_label("Pictures to add").set_input_files(list(files))


def test_its_pictures_are_shown(shelf: Locator) -> None:
    images = shelf.get_by_role("list", name="Pictures").get_by_role("img")
    expect(images).to_have_count(len(world.SCENES))
    expect(images.first).to_have_js_property("complete", True)
    assert images.first.evaluate("image => image.naturalWidth") > 0


def test_a_collection_from_nothing_to_a_reply_and_back(
    shelf: Locator, page: ChatPage, tmp_path: Path
) -> None:
    item = world.sent_picture()
    picture, words = tmp_path / "two dogs.png", tmp_path / "broken.png"
    picture.write_bytes(item.image)
    words.write_text("this is text")
    shelf.get_by_role("button", name="New collection…").click()
    page.page.get_by_role("textbox", name="Name").fill("mine")
    page.button("Create").click()
    expect(shelf.get_by_role("combobox")).to_have_value("mine")
    expect(shelf.get_by_text("0 pictures")).to_be_visible()

    add(shelf, words, picture)
    expect(shelf.get_by_text(re.compile("^1 picture$"))).to_be_visible()
    expect(shelf.get_by_role("alert")).to_contain_text("broken.png: ")
    expect(shelf.get_by_role("img", name="two dogs.png")).to_be_visible()
    told = shelf.get_by_role("status")
    expect(told).to_have_text("1 of 2 pictures have been added.")
    add(shelf, picture)
    expect(told).to_have_text("All pictures have been added.")
    expect(shelf.get_by_text("1 picture; 1 added before")).to_be_visible()
    page.screenshot("own-collection")
    assert page.findings() == []

    shelf.get_by_role("button", name="Close").click()
    page.page.get_by_role("combobox", name="Collection").select_option("mine")
    page.send("show me two dogs")
    expect(page.pictures.get_by_role("img", name="two dogs.png")).to_be_visible()

    page.button("Look at the pictures…").click()
    shelf.get_by_role("img", name="two dogs.png").hover()
    shelf.get_by_role("button", name="Delete two dogs.png").click()
    page.button("Delete").click()
    expect(shelf.get_by_text("0 pictures")).to_be_visible()
    shelf.get_by_role("button", name="Drop the collection…").click()
    page.button("Drop it").click()
    expect(shelf.get_by_role("combobox").get_by_role("option", name="mine")).to_have_count(0)
    shelf.get_by_role("button", name="Close").click()
    expect(page.page.get_by_role("combobox", name="Collection")).to_have_value("demo")


def test_what_the_server_refuses_is_said(shelf: Locator, page: ChatPage) -> None:
    shelf.get_by_role("button", name="New collection…").click()
    page.page.get_by_role("textbox", name="Name").fill("demo")
    page.button("Create").click()
    expect(shelf.get_by_role("alert")).to_contain_text("demo")


def test_page_after_page_and_when_one_fails(
    scripted: ScriptedServer, scripted_chat: ChatPage
) -> None:
    scripted.script["/v1/collections/demo/images"] = [failure(503, "not_ready", "not just now")]
    scripted_chat.button("Settings and pictures").click()
    scripted_chat.button("Look at the pictures…").click()
    dialog = scripted_chat.page.get_by_role("dialog", name="Pictures")
    expect(dialog.get_by_role("alert")).to_contain_text("not just now")
    scripted.script["/v1/collections/demo/images"] = [
        answer(images=[image("a1", score=None)], next="1", total=3),
        answer(images=[image("a2", score=None), image("a3", score=None)], next=None, total=3),
    ]
    dialog.get_by_role("button", name="Try again").click()
    expect(dialog.get_by_text("3 pictures")).to_be_visible()
    expect(dialog.get_by_role("alert")).to_be_empty()
    dialog.get_by_role("button", name="Show more").click()
    expect(dialog.get_by_role("list", name="Pictures").get_by_role("img")).to_have_count(3)
    expect(dialog.get_by_role("button", name="Show more")).to_be_hidden()
    pages = [asked.path for asked in scripted.asked_for("/v1/collections/demo/images")]
    assert "after=1" in pages[-1]


def test_without_a_collection_the_page_says_so(
    scripted: ScriptedServer, scripted_chat: ChatPage
) -> None:
    welcome = scripted_chat.page.locator("#messages")
    expect(welcome).not_to_contain_text("no pictures to show yet")
    scripted.script["/v1/collections"] = [answer(collections=[]), answer(collections=[CARD])]
    scripted_chat.page.reload()
    expect(welcome).to_contain_text("no pictures to show yet")
    scripted.script[f"/v1/collections/{CARD['name']}/images"] = [
        answer(images=[], next=None, total=CARD["size"])
    ]
    scripted_chat.button("Settings and pictures").click()
    scripted_chat.button("Look at the pictures…").click()
    expect(welcome).not_to_contain_text("no pictures to show yet")
