"""The system's Chromium, and the chat page in it."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

from tests.conftest import ROOT, absent

NAMES = ("chromium", "chromium-browser", "google-chrome")
SCREENSHOTS = ROOT / "build" / "screenshots"
DESKTOP, PHONE = (1280, 800), (390, 844)
# In the first seconds the server may still compile and fill its caches.
PATIENCE_MS = 30_000
SERIOUS = ("serious", "critical")


@contextmanager
def running_chromium() -> Iterator[Browser]:
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        absent("browser", f"none of {', '.join(NAMES)} is installed")
    expect.set_options(timeout=PATIENCE_MS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found)
        yield browser
        browser.close()


class ChatPage:
    """What a user sees and does, in words."""

    def __init__(self, page: Page, url: str) -> None:
        self.page = page
        self.url = url
        self.errors: list[str] = []
        page.set_default_timeout(PATIENCE_MS)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("console", self._note)

    def _note(self, message: Any) -> None:
        """Refused requests are part of some tests; what the policy forbade never is."""
        if message.type == "error" and "Failed to load resource" not in message.text:
            self.errors.append(message.text)

    def open(self) -> "ChatPage":
        self.page.goto(self.url)
        return self

    def second(self) -> "ChatPage":
        """The same address in another tab."""
        return ChatPage(self.page.context.new_page(), self.page.url).open()

    @property
    def chats(self) -> Locator:
        return self.page.locator("#chat-list").get_by_role("link")

    def open_ready(self) -> "ChatPage":
        """With the server ready and its examples shown, illustrated."""
        self.open()
        expect(self.examples.locator("img")).to_have_count(4)
        return self

    @property
    def message(self) -> Locator:
        return self.page.get_by_role("textbox", name="Message", exact=True)

    @property
    def examples(self) -> Locator:
        return self.page.get_by_role("list", name="Examples to try")

    @property
    def replies(self) -> Locator:
        return self.page.locator("article.reply")

    @property
    def asked(self) -> Locator:
        return self.page.locator("article.user")

    @property
    def pictures(self) -> Locator:
        """Those of the replies."""
        return self.replies.get_by_role("button", name="similarity")

    def button(self, name: str) -> Locator:
        return self.page.get_by_role("button", name=name, exact=True)

    def send(self, text: str) -> Locator:
        """Writes and sends it, and returns the finished reply."""
        expect(self.message).to_be_enabled()
        number = self.replies.count()
        self.message.fill(text)
        self.message.press("Enter")
        return self.finished(number)

    def finished(self, number: int) -> Locator:
        """The reply of that number, when it is whole."""
        reply = self.replies.nth(number)
        expect(reply).to_have_attribute("aria-busy", "false")
        return reply

    def findings(self) -> list[tuple[str, list[str]]]:
        """What axe-core holds for serious or worse, and where."""
        violations = Axe().run(self.page).response["violations"]
        return [
            (found["id"], [node["html"] for node in found["nodes"]])
            for found in violations
            if found["impact"] in SERIOUS
        ]

    def screenshot(self, name: str) -> Path:
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        path = SCREENSHOTS / f"{name}.png"
        self.page.screenshot(path=path)
        return path
