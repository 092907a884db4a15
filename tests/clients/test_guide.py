"""The guide, the README and the notebook do what they say, on the real server."""

import base64
import re
import runpy
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from tests.conftest import ROOT

PAGES = ("docs/python.md", "clients/python/README.md")
NOTEBOOK = ROOT / "clients" / "python" / "examples" / "first_steps.ipynb"


@pytest.fixture
def desk(tmp_path: Path, png: bytes, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a picture in it."""
    (tmp_path / "cat.jpg").write_bytes(png)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("page", PAGES)
def test_the_python_of_a_page_runs(page: str, server: str, desk: Path) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / page).read_text(), re.DOTALL | re.M)
    assert blocks
    program = desk / "page.py"
    program.write_text("\n".join(blocks).replace("http://127.0.0.1:8000", server))
    client = runpy.run_path(str(program))["client"]
    client.close()


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)", (ROOT / page).read_text())
    assert [link for link in links if not ((ROOT / page).parent / link).exists()] == []


def test_the_notebook_runs(server: str, desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FROMAGE_SERVER", server)
    monkeypatch.setenv("IPYTHONDIR", str(desk / "ipython"))
    notebook = nbformat.reads(NOTEBOOK.read_text(), as_version=4)  # type: ignore[no-untyped-call]
    assert not any(cell.get("outputs") for cell in notebook.cells), "it is kept without outputs"
    NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(desk)}}).execute()
    [found] = [cell for cell in notebook.cells if cell.source.startswith("found =")]
    pictures = re.findall(r'<img src="data:image/[a-z]+;base64,([^"]+)"', _html(found))
    assert len(pictures) == 3
    assert all(base64.b64decode(data, validate=True) for data in pictures)
    assert (desk / "talk.json").exists()
    assert "['added'] 1" in str(notebook.cells)


def _html(cell: Any) -> str:
    """What a cell displays as HTML."""
    shown = (output.get("data", {}) for output in cell.outputs)
    return "".join(data.get("text/html", "") for data in shown)
