"""The page for everybody: by keyboard, on phones, read aloud, in light and dark."""

import pytest
from playwright.sync_api import expect

from tests.clients.web.browser import DESKTOP, PHONE, ChatPage
from tests.clients.web.conftest import PageMaker


@pytest.mark.parametrize(
    ("name", "size", "colours"),
    [("desktop", DESKTOP, "light"), ("phone", PHONE, "dark")],
    ids=["desktop-light", "phone-dark"],
)
def test_axe_finds_nothing_serious(
    open_page: PageMaker, demo_server: str, name: str, size: tuple[int, int], colours: str
) -> None:
    page = open_page(demo_server, size, color_scheme=colours, reduced_motion="reduce")
    page.open_ready()
    page.screenshot(f"{name}-welcome")
    assert page.findings() == []
    page.send("show me an elephant")
    page.send("three cats on a blue background")
    page.screenshot(f"{name}-conversation")
    assert page.findings() == []
    page.pictures.last.click()
    page.screenshot(f"{name}-picture")
    assert page.findings() == []
    page.page.keyboard.press("Escape")
    page.button("Settings and pictures").click()
    page.screenshot(f"{name}-settings")
    assert page.findings() == []
    page.button("Look at the pictures…").click()
    expect(page.page.get_by_role("dialog").get_by_text("13 pictures")).to_be_visible()
    page.screenshot(f"{name}-collection")
    assert page.findings() == []
    page.button("New collection…").click()
    assert page.findings() == []


def test_by_keyboard_alone(page: ChatPage) -> None:
    """From opening the page to another picture than the one shown, and back."""
    page.open_ready()
    keyboard = page.page.keyboard
    expect(page.message).to_be_focused()
    keyboard.type("show me an elephant")
    keyboard.press("Enter")
    page.finished(0)
    expect(page.message).to_be_focused()
    keyboard.press("Shift+Tab")
    while page.page.evaluate("!document.activeElement.matches('.picture')"):
        keyboard.press("Shift+Tab")
    keyboard.press("Enter")
    dialog = page.page.get_by_role("dialog")
    expect(dialog).to_be_visible()
    shown = dialog.get_by_role("heading", level=2).inner_text()
    chosen = dialog.get_by_role("button", pressed=True)
    expect(chosen).to_have_count(1)
    while page.page.evaluate("document.activeElement.getAttribute('aria-pressed') !== 'false'"):
        keyboard.press("Tab")
    keyboard.press("Enter")
    expect(dialog.get_by_role("heading", level=2)).not_to_have_text(shown)
    keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    expect(page.pictures.first).to_be_focused()
    outline = "getComputedStyle(document.activeElement).outlineStyle"
    assert page.page.evaluate(outline) == "solid"


def test_a_link_leads_past_the_lists(page: ChatPage) -> None:
    page.open_ready()
    page.page.get_by_role("link", name="FROMAGe", exact=True).focus()
    page.page.keyboard.press("Shift+Tab")
    expect(page.page.get_by_role("link", name="Skip to your message")).to_be_focused()
    page.page.keyboard.press("Enter")
    expect(page.message).to_be_focused()


def test_a_reply_is_read_aloud_once(page: ChatPage) -> None:
    """Whole, when it is there, and not word by word."""
    page.open_ready()
    page.page.evaluate(
        """() => {
          window.heard = [];
          const live = document.querySelector("#announcer");
          new MutationObserver(() => window.heard.push(live.textContent))
            .observe(live, {childList: true});
        }"""
    )
    page.send("show me an elephant")
    first, last = page.page.evaluate("window.heard")
    assert first == "FROMAGe is answering."
    assert last.startswith("FROMAGe: ")
    assert "elephant" in last
    assert "[Picture: " in last
    assert page.page.locator("#messages[aria-live], #messages [aria-live]").count() == 0


def test_on_a_phone(open_page: PageMaker, demo_server: str) -> None:
    page = open_page(demo_server, PHONE, is_mobile=True, has_touch=True)
    page.open_ready()
    chats = page.page.get_by_role("navigation", name="Conversations")
    expect(chats).to_be_hidden()
    page.message.fill("show me an elephant")
    page.button("Send").tap()
    expect(page.finished(0).get_by_role("img").first).to_be_in_viewport()
    assert page.page.evaluate("document.documentElement.scrollWidth") == PHONE[0]
    page.button("Conversations").tap()
    expect(chats).to_be_visible()
    assert page.page.evaluate("document.querySelector('main').inert")
    page.page.keyboard.press("Escape")
    expect(chats).to_be_hidden()
    page.button("Settings and pictures").tap()
    expect(page.page.get_by_label("Temperature")).to_be_in_viewport()
    page.page.touchscreen.tap(10, 400)
    expect(page.page.get_by_role("complementary")).to_be_hidden()


def test_skipping_to_the_message_stays_in_the_conversation(page: ChatPage) -> None:
    page.open_ready()
    page.send("show me an elephant")
    address = page.page.url
    page.page.locator(".skip").focus()
    page.page.keyboard.press("Enter")
    expect(page.message).to_be_focused()
    expect(page.pictures).to_have_count(1)
    assert page.page.url == address
