"""A server that goes away, and another that comes in its place, under an open page."""

from pathlib import Path

import httpx
import pytest
from playwright.sync_api import expect

from tests.clients.scripted import reply_stream
from tests.clients.web import world
from tests.clients.web.conftest import PageMaker
from tests.clients.web.scripting import answer, scripted_page
from tests.server.process import start, wait_for

pytestmark = pytest.mark.slow  # a server of its own, half a minute


def test_the_page_goes_on_where_it_was(open_page: PageMaker, tmp_path: Path) -> None:
    """The new server knows neither the conversation nor the picture that was sent."""
    world.write_folder(tmp_path / "pictures")
    item = world.sent_picture()
    (tmp_path / item.key).write_bytes(item.image)
    with scripted_page() as scripted:
        url = scripted.url
        kept = answer(id="up_1", width=240, height=240, expires_at=4_000_000_000)
        scripted.script["/v1/uploads"] = [kept]
        scripted.script["/v1/chat"] = [reply_stream("I see.")]
        page = open_page(url).open()
        expect(page.examples.get_by_role("button")).to_have_count(4)
        page.page.set_input_files("#files", tmp_path / item.key)
        expect(page.page.locator(".attachment.ready")).to_have_count(1)
        page.send("look at this")
    expect(page.send("how many are there?")).to_contain_text("The server does not answer.")
    expect(page.page.locator("#banner")).to_contain_text("The server does not answer.")
    page.screenshot("away")

    port = str(httpx.URL(url).port)
    flags = ("--images", f"demo={tmp_path / 'pictures'}", "--port", port)
    with start(tmp_path, *flags) as (process, _):
        wait_for(process, url, "/healthz")
        expect(page.page.locator("#banner")).to_contain_text("Getting ready: ")
        wait_for(process, url, "/readyz")
        expect(page.page.locator("#banner")).to_be_hidden()
        page.button("Try again").click()
        expect(page.finished(1)).to_contain_text("two")
        expect(page.asked).to_have_count(2)
    log = next(tmp_path.glob("server-*.log")).read_text()
    assert f"The chat page: {url}/" in log
