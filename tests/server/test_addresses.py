"""Whose address stands in front of a picture's path."""

import pytest
from starlette.requests import Request

from fromage_server.addresses import public_base


def request(headers: dict[str, str], root_path: str = "") -> Request:
    encoded = [(name.encode(), value.encode()) for name, value in headers.items()]
    return Request(
        {
            "type": "http",
            "scheme": "http",
            "server": ("10.0.0.1", 8000),
            "path": "/v1/chat/completions",
            "query_string": b"",
            "root_path": root_path,
            "headers": encoded,
        }
    )


PROXIED = {
    "host": "inner:8000",
    "x-forwarded-proto": "https",
    "x-forwarded-host": "outer.example",
    "x-forwarded-prefix": "/fromage/",
}


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"host": "localhost:8000"}, "http://localhost:8000"),
        ({"host": "[::1]:8000"}, "http://[::1]:8000"),
        ({}, "http://10.0.0.1:8000"),
        (PROXIED, "https://outer.example/fromage"),
        (PROXIED | {"x-forwarded-host": "a.example, b.example"}, "https://a.example/fromage"),
        (PROXIED | {"x-forwarded-proto": "javascript"}, "http://inner:8000"),
        (PROXIED | {"x-forwarded-host": "a.example)](x"}, "http://inner:8000"),
        (PROXIED | {"x-forwarded-prefix": "//evil.example/?"}, "http://inner:8000"),
    ],
)
def test_what_the_request_says(headers: dict[str, str], expected: str) -> None:
    assert public_base(request(headers), None) == expected


def test_below_a_root_path() -> None:
    assert public_base(request({"host": "h"}, root_path="/api"), None) == "http://h/api"


def test_a_setting_comes_first() -> None:
    assert public_base(request(PROXIED), "https://p.example/x/") == "https://p.example/x"
