"""Pictures and collections that others delete while a conversation refers to them."""

from collections.abc import Iterator

import httpx
import pytest
from playwright.sync_api import expect

from tests.clients.web import world
from tests.clients.web.browser import ChatPage

pytestmark = pytest.mark.slow  # a server of its own, half a minute

NAME = "fleeting"


@pytest.fixture
def images(demo_server: str) -> Iterator[str]:
    """The address of a collection with one picture."""
    item = world.sent_picture()
    with httpx.Client(base_url=demo_server) as http:
        http.post("/v1/collections", json={"name": NAME}).raise_for_status()
        address = f"/v1/collections/{NAME}/images"
        http.post(address, files={"file": (item.key, item.image)}).raise_for_status()
        yield f"{demo_server}{address}"
        http.delete(f"/v1/collections/{NAME}")


@pytest.fixture
def asked(page: ChatPage, images: str) -> ChatPage:
    """A conversation in which the collection's picture was shown and asked about."""
    page.open_ready()
    page.button("Settings and pictures").click()
    page.page.get_by_role("combobox", name="Collection").select_option(NAME)
    page.send("show me two dogs")
    page.pictures.click()
    page.button("Ask about this picture").click()
    expect(page.send("what is this?")).to_contain_text("two dogs")
    return page


def test_a_conversation_outlives_its_pictures(asked: ChatPage, images: str) -> None:
    (only,) = httpx.get(images).json()["images"]
    httpx.delete(f"{images}/{only['id']}").raise_for_status()
    expect(asked.send("hello")).not_to_contain_text("has no image")
    left_out = asked.asked.nth(1)
    expect(left_out).to_contain_text("no longer in its collection")
    asked.page.reload()
    expect(left_out).to_contain_text("no longer in its collection")
    expect(asked.send("and now?")).to_be_visible()


def test_who_asks_about_a_deleted_picture_is_told(asked: ChatPage, images: str) -> None:
    (only,) = httpx.get(images).json()["images"]
    asked.pictures.click()
    asked.button("Ask about this picture").click()
    httpx.delete(f"{images}/{only['id']}").raise_for_status()
    expect(asked.send("what is this?")).to_contain_text("has no image")


def test_a_dropped_collection_is_no_longer_chosen(asked: ChatPage, images: str) -> None:
    httpx.delete(images.removesuffix("/images")).raise_for_status()
    expect(asked.send("show me a cat")).to_contain_text("there is no collection 'fleeting'")
    expect(asked.page.get_by_role("combobox", name="Collection")).to_have_value("demo")
    asked.button("Try again").click()
    expect(asked.finished(2)).to_contain_text("cat")


def test_the_shelf_shows_what_others_have_made(page: ChatPage, demo_server: str) -> None:
    page.open_ready()
    httpx.post(f"{demo_server}/v1/collections", json={"name": "late"}).raise_for_status()
    page.button("Settings and pictures").click()
    page.button("Look at the pictures…").click()
    choice = page.page.get_by_role("dialog", name="Pictures").get_by_role("combobox")
    expect(choice.get_by_role("option", name="late")).to_have_count(1)
    httpx.delete(f"{demo_server}/v1/collections/late").raise_for_status()
