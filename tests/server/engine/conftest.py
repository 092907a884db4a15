"""Models that several modules share, and the recorded reference imported as a bundle."""

import pytest

from fromage_weights.grounded import GroundedModel
from tests.server.engine.tiny import grounded
from tests.weights.conftest import recording

__all__ = ["model", "recording"]


@pytest.fixture(scope="session")
def model() -> GroundedModel:
    return grounded("gpt2", tied=True)
