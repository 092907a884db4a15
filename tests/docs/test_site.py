"""The documentation builds without a warning, says all that the server does, and loads nothing from
elsewhere."""

import html
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import fromage_client
from fromage_server.app import create_app
from fromage_server.errors import ERROR_TABLE
from fromage_server.settings import Settings
from tests.conftest import ROOT


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built as `make docs` does: strictly, so that a dead link or a page outside of the navigation
    is an error. (Said quietly, with `-q`, warnings are not counted.)"""
    path = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "-d", str(path)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return path


def _text(page: Path) -> str:
    """What a reader sees."""
    return html.unescape(re.sub(r"<[^>]*>", "", page.read_text(encoding="utf-8")))


def test_the_api_page_has_every_endpoint_option_and_error(site: Path) -> None:
    text = _text(site / "api.html")
    openapi = create_app(Settings(), on_failure=lambda message: None).openapi()
    for path, verbs in openapi["paths"].items():
        for verb in verbs:
            assert f"{verb.upper()} {path}" in text
    for schema in openapi["components"]["schemas"].values():
        for name, field in schema.get("properties", {}).items():
            assert name in text
            assert " ".join(field.get("description", "").split()).replace("`", "") in text
    for code, kind in ERROR_TABLE.items():
        assert re.search(rf"\b{code}\s+{kind.status}\s+{kind.type}\b", text), code


def test_options_stand_with_default_and_range(site: Path) -> None:
    text = re.sub(r"\s+", " ", _text(site / "api.html"))
    assert "temperature number, at least 0 and at most 2 0.0 0 is greedy." in text
    assert "size query integer, at least 1 and at most 4,096 or null" in text


def test_the_python_reference_has_every_public_name(site: Path) -> None:
    anchors = re.findall(
        r'id="fromage_client\.([\w.]+)"', (site / "python-reference.html").read_text()
    )
    shown = {anchor.rpartition(".")[2] for anchor in anchors}
    hidden = {name for name in fromage_client.__all__ if name not in shown}
    assert hidden == set()
    assert {"stream", "retrieve", "create_collection"} <= shown


def test_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    loading = re.compile(
        r'<(?:script|img|link|iframe|source)\b[^>]*?(?:src|href)="((?:https?:)?//[^"]*)"'
    )
    for page in site.rglob("*.html"):
        assert loading.findall(page.read_text(encoding="utf-8")) == [], page.name
    for sheet in site.rglob("*.css"):
        assert "url(http" not in sheet.read_text(encoding="utf-8"), sheet.name


def test_marks_are_not_shown(site: Path) -> None:
    for page in site.rglob("*.html"):
        assert "needs: " not in _text(page), page.name
