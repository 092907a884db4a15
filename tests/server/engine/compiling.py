"""Tests of what was compiled."""

import pytest

from fromage_server.engine import compiled


def skip_without_compiler(found: object) -> None:
    """Where nothing could be ``found`` though there is a compiler, the source is at fault."""
    if not found and compiled.compiler() is None:
        pytest.skip("there is no C++ compiler")
    assert found, "a kernel does not compile, see the log"
