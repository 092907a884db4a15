"""The chat page: plain files in `static/`, to be served as they are."""

from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Final

START: Final = "index.html"


def static_files() -> dict[str, Traversable]:
    """By name; `START` is the page itself, which asks for the others beneath `/page/`."""
    return {file.name: file for file in (files(__name__) / "static").iterdir() if file.is_file()}
