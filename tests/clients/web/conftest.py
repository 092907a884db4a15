"""One browser and one server for all tests of the page; each test has a profile of its own."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from playwright.sync_api import Browser, expect

from tests.clients.scripted import ScriptedServer
from tests.clients.web import world
from tests.clients.web.browser import DESKTOP, ChatPage, running_chromium
from tests.clients.web.scripting import scripted_page
from tests.server.process import start, wait_for

PageMaker = Callable[..., ChatPage]


# Not for the session: while it runs, asyncio takes this thread's loop for running.
@pytest.fixture(scope="package")
def chromium() -> Iterator[Browser]:
    with running_chromium() as browser:
        yield browser


@pytest.fixture(scope="package")
def demo_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The demo model with a few of its pictures, and with some whose names are markup."""
    work = tmp_path_factory.mktemp("page")
    world.write_folder(work / "pictures")
    world.write_markup(work / "wicked")
    folders = ("--images", f"demo={work / 'pictures'}", "--images", f"wicked={work / 'wicked'}")
    with start(work, *folders) as (process, url):
        wait_for(process, url, "/readyz")
        yield url


@pytest.fixture
def open_page(chromium: Browser) -> Iterator[PageMaker]:
    """Makes pages, each in a profile of its own. What their scripts complain of fails the test."""
    with ExitStack() as stack:
        made: list[ChatPage] = []

        def make(url: str, size: tuple[int, int] = DESKTOP, **options: Any) -> ChatPage:
            viewport = {"width": size[0], "height": size[1]}
            context = chromium.new_context(viewport=viewport, **options)  # type: ignore[arg-type]
            stack.callback(context.close)
            made.append(ChatPage(context.new_page(), url))
            return made[-1]

        yield make
        assert [error for page in made for error in page.errors] == []


@pytest.fixture
def page(open_page: PageMaker, demo_server: str) -> ChatPage:
    return open_page(demo_server)


@pytest.fixture
def scripted() -> Iterator[ScriptedServer]:
    with scripted_page() as server:
        yield server


@pytest.fixture
def scripted_chat(open_page: PageMaker, scripted: ScriptedServer) -> ChatPage:
    """The page of the scripted server, ready to be written in."""
    page = open_page(scripted.url).open()
    expect(page.examples.get_by_role("button")).to_have_count(4)
    return page
