"""What the server hands out at `/`."""

import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from fromage_web import static_files

BUDGET = 150_000


@pytest.fixture
def http(demo_server: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=demo_server) as client:
        yield client


def test_all_of_it_is_within_the_budget() -> None:
    sizes = {name: len(file.read_bytes()) for name, file in static_files().items()}
    assert sum(sizes.values()) < BUDGET, sizes


def test_it_needs_nothing_from_elsewhere() -> None:
    for name, file in static_files().items():
        text = file.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"""(src|href|url)\s*[=(]\s*["']?(https?:)?//""", text), name
        assert not re.search(r"\b(innerHTML|insertAdjacentHTML|document\.write|eval)\b", text), name


def test_the_page_and_its_policy(http: httpx.Client) -> None:
    answer = http.get("/")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    policy = dict(
        directive.split(" ", 1)
        for directive in answer.headers["content-security-policy"].split("; ")
    )
    assert policy["default-src"] == "'self'"
    assert policy["img-src"] == "'self' data: blob:"
    assert policy["frame-ancestors"] == "'none'"
    assert not any("unsafe" in allowed for allowed in policy.values())
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_its_head_alone(http: httpx.Client) -> None:
    answer = http.head("/")
    assert (answer.status_code, answer.content) == (200, b"")
    assert answer.headers["etag"] == http.get("/").headers["etag"]


def test_every_file_that_is_named_is_there(http: httpx.Client) -> None:
    for name in static_files():
        text = http.get("/" if name == "index.html" else f"/page/{name}").text
        named = {Path(path).name for path in re.findall(r'"(/page/[\w.]+|\./[\w.]+\.js)"', text)}
        for other in named:
            assert http.get(f"/page/{other}").status_code == 200, (name, other)


def test_unchanged_files_are_not_sent_again(http: httpx.Client) -> None:
    first = http.get("/page/app.js")
    assert first.headers["content-type"].startswith("text/javascript")
    again = http.get("/page/app.js", headers={"if-none-match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["content-security-policy"] == first.headers["content-security-policy"]


@pytest.mark.parametrize("name", ["nothing.js", "..%2f__init__.py", "__init__.py", ""])
def test_nothing_else_is_handed_out(http: httpx.Client, name: str) -> None:
    answer = http.get(f"/page/{name}")
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "route_not_found"
