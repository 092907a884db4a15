"""Holds a conversation on a running demo server's page: the picture in the README.

python docs/show_page.py --url http://127.0.0.1:8000 --out docs/page.png
"""

import argparse
import io
import shutil
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, expect, sync_playwright

SIZE = {"width": 1180, "height": 1040}
COLOURS = 256
PATIENCE_MS = 60_000


def say(page: Page, text: str) -> None:
    """And wait for the whole reply."""
    replies = page.locator("article.reply")
    number = replies.count()
    page.get_by_role("textbox", name="Message", exact=True).fill(text)
    page.get_by_role("button", name="Send", exact=True).click()
    expect(replies.nth(number)).to_have_attribute("aria-busy", "false")


def hold_conversation(page: Page) -> None:
    """Other conversations first, for the list; then a picture asked for, and one asked about."""
    for text in ("show me a rocket and a ufo", "hello"):
        say(page, text)
        page.get_by_role("button", name="New conversation", exact=True).click()
    say(page, "show me three cats on a blue background")
    page.locator("article.reply .picture").click()
    page.locator("dialog [aria-pressed='false']").first.click()
    page.get_by_role("button", name="Ask about this picture").click()
    say(page, "what is this?")
    images = page.locator("#messages img")
    for image in images.all():
        expect(image).to_have_js_property("complete", True)
    page.mouse.move(0, 0)


def screenshot(page: Page, out: Path) -> None:
    """In few colours, which are enough for it: a small file."""
    shot = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    shot.quantize(COLOURS, dither=Image.Dither.NONE).save(out, optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--out", type=Path, default=Path("docs/page.png"))
    arguments = parser.parse_args()
    expect.set_options(timeout=PATIENCE_MS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"))
        page = browser.new_page(viewport=SIZE, color_scheme="light")
        page.goto(arguments.url)
        expect(page.get_by_role("list", name="Examples to try").locator("img")).to_have_count(4)
        hold_conversation(page)
        screenshot(page, arguments.out)
        browser.close()


if __name__ == "__main__":
    main()
