"""Fixtures that every room's tests share."""

import os
from pathlib import Path
from typing import NoReturn

import pytest

from fromage_weights.cpu import avoid_hidden_amx

avoid_hidden_amx()  # before any test computes something

ROOT = Path(__file__).resolve().parent.parent
RECORDED_SUBSET = ROOT / "tests" / "data" / "reference_subset"


# Fixtures that start a server or a browser for the tests of several files: where these are run by
# several workers, one of them runs all that share one, or each would start its own.
SHARED = ("replay", "demo_server", "server", "demo")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Groups for `--dist loadgroup`: a file, or the files of a room that share such a fixture."""
    groups: dict[Path, str] = {}
    for item in items:
        used = getattr(item, "fixturenames", ())
        for name in SHARED:
            if name in used:
                groups.setdefault(item.path, f"{item.path.relative_to(ROOT).parts[1]}-{name}")
    for item in items:
        name = groups.get(item.path, str(item.path.relative_to(ROOT)))
        item.add_marker(pytest.mark.xdist_group(name))


def _reference_dir() -> Path:
    """Where the full recording of the reference implementation lies, if it is here."""
    return Path(os.environ.get("FROMAGE_REFERENCE", ROOT.parent / "shared" / "reference"))


def absent(name: str, message: str) -> NoReturn:
    """What a test needs is not here: it is skipped, or fails where FROMAGE_REQUIRE names it."""
    if name in os.environ.get("FROMAGE_REQUIRE", "").split(","):
        pytest.fail(message)
    pytest.skip(message)


@pytest.fixture(scope="session")
def reference() -> Path:
    """The full recording: `images/`, `variant_a/`, `variant_b/`."""
    path = _reference_dir()
    if path.is_dir():
        return path
    absent("reference", f"the reference recording is not at {path} (set FROMAGE_REFERENCE)")


@pytest.fixture(scope="session")
def reference_any() -> Path:
    """The full recording where there is one, else the subset that ships with the tests."""
    path = _reference_dir()
    return path if path.is_dir() else RECORDED_SUBSET
