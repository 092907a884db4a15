"""Fixtures that every room's tests share."""

import os
from pathlib import Path
from typing import Any, NoReturn

import pytest

from fromage_weights.cpu import avoid_hidden_amx

avoid_hidden_amx()  # before any test computes something

ROOT = Path(__file__).resolve().parent.parent
RECORDED_SUBSET = ROOT / "tests" / "data" / "reference_subset"


# Files whose tests share a server or a browser: of several workers, one runs all of these.
TOGETHER = ("tests/clients/web/", "tests/server/completions/", "tests/server/test_reference_")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """`--dist loadfile`, but for what stays together."""
    if config.getvalue("dist") != "loadfile":
        return None
    from xdist.scheduler import LoadFileScheduling  # type: ignore[import-untyped]

    class Scheduling(LoadFileScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            file = super()._split_scope(nodeid)
            return next((start for start in TOGETHER if file.startswith(start)), file)

    return Scheduling(config, log)


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
