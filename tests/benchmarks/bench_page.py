"""How soon the chat page is there: python -m tests.benchmarks.bench_page

Starts the demo server with an empty cache and opens the page at once, as a new user does. Prints
how long it takes from there until the server is ready and until the first picture is seen; then,
over fresh profiles, the page's first paint, when it can be written in, what it weighs and what
moved while it was loaded. Needs Chromium.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

from playwright.sync_api import Browser, Page, expect

from tests.clients.web.browser import DESKTOP, running_chromium
from tests.server.process import start, wait_for

LOADS = 20
STARTING_MS = 900_000
MEASURE = """() => {
  const paint = performance.getEntriesByName("first-contentful-paint")[0];
  const own = performance.getEntriesByType("resource").filter(({name}) => name.includes("/page/"));
  const [page] = performance.getEntriesByType("navigation");
  return {
    paint: paint.startTime,
    written: page.domInteractive,
    bytes: [page, ...own].reduce((sum, {encodedBodySize}) => sum + encodedBodySize, 0),
    shift: window.shift,
  };
}"""
WATCH = """
window.shift = 0;
new PerformanceObserver((list) => {
  for (const entry of list.getEntries()) window.shift += entry.value;
}).observe({type: "layout-shift", buffered: true});
"""


def new_page(browser: Browser) -> Page:
    """In a profile of its own."""
    page = browser.new_page(viewport={"width": DESKTOP[0], "height": DESKTOP[1]})
    page.add_init_script(WATCH)
    return page


def first_picture(browser: Browser, url: str, started: float) -> None:
    page = new_page(browser)
    page.goto(url)
    print(f"page open after          {time.monotonic() - started:7.1f} s")
    examples = page.get_by_role("list", name="Examples to try")
    expect(examples.locator("img")).to_have_count(4, timeout=STARTING_MS)
    print(f"ready after              {time.monotonic() - started:7.1f} s")
    asked = time.monotonic()
    examples.get_by_role("button").first.click()
    image = page.locator("article.reply .picture img")
    expect(image).to_have_js_property("complete", True)
    print(f"a picture, once asked    {1000 * (time.monotonic() - asked):7.0f} ms")
    page.close()


def load(browser: Browser, url: str) -> dict[str, float]:
    page = new_page(browser)
    page.goto(url)
    expect(page.get_by_role("list", name="Examples to try").locator("img")).to_have_count(4)
    found: dict[str, float] = page.evaluate(MEASURE)
    page.close()
    return found


def report(loads: list[dict[str, float]]) -> None:
    for name, label in (("paint", "first contentful paint"), ("written", "interactive")):
        times = sorted(one[name] for one in loads)
        print(f"{label:24s} p50 {statistics.median(times):7.0f} ms   worst {times[-1]:7.0f} ms")
    print(f"page and its files       {loads[0]['bytes'] / 1000:7.1f} KB")
    print(f"layout shift, worst      {max(one['shift'] for one in loads):7.4f}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--loads", type=int, default=LOADS)
    loads = parser.parse_args().loads
    with (
        running_chromium() as browser,
        tempfile.TemporaryDirectory() as cache,
        start(Path(cache)) as (process, url),
    ):
        started = time.monotonic()
        wait_for(process, url, "/healthz")
        first_picture(browser, url, started)
        report([load(browser, url) for _ in range(loads)])


if __name__ == "__main__":
    main()
