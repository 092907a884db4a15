"""Shared by the tests of the demo's training."""

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture
def uncompiled() -> Iterator[None]:
    """For trainings of a few steps: compiling their shapes would take most of the time. That it
    changes nothing is shown where the functions are tested."""
    with torch.compiler.set_stance("force_eager"):
        yield
