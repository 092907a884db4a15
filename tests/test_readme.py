"""The README names things that exist."""

import re
from pathlib import Path

import pytest

from tests.conftest import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
PACKAGES = ("server", "index", "weights", "clients")


def _sources() -> str:
    files = (path for name in PACKAGES for path in (ROOT / name).rglob("*.py"))
    return "\n".join(path.read_text(encoding="utf-8") for path in files)


def _named_classes() -> list[str]:
    return sorted(set(re.findall(r"`([A-Z][a-z]+[A-Za-z]*)`", README)))


def _tree_entries() -> list[str]:
    """Paths of the annotated tree, with the folder that their indentation puts them in."""
    tree = re.search(r"```\n(.*?)```", README, re.DOTALL)
    assert tree is not None
    entries: list[str] = []
    folder = ""
    for line in tree.group(1).splitlines():
        names = re.match(r"( *)((?:[\w./]+ )+)", line)
        assert names is not None, line
        if not names.group(1):
            folder = names.group(2).strip()
            entries.append(folder)
        else:
            entries += [folder + name for name in names.group(2).split()]
    return entries


@pytest.mark.parametrize("name", _named_classes())
def test_every_class_named_exists(name: str) -> None:
    assert re.search(rf"^class {name}\b", _sources(), re.MULTILINE), f"no class {name}"


@pytest.mark.parametrize("path", _tree_entries())
def test_every_path_of_the_tree_exists(path: str) -> None:
    assert (ROOT / path).exists()


def test_links_lead_somewhere() -> None:
    links = re.findall(r"\]\((?!https?:)([^)]+)\)", README)
    assert links
    assert [link for link in links if not (ROOT / Path(link)).exists()] == []
