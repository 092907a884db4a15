"""Models that several modules share, and the recorded reference imported as a bundle."""

from functools import partial

import pytest

from fromage_server.engine import Engine
from fromage_weights.grounded import GroundedModel
from tests.server.engine.driving import Engines
from tests.server.engine.tiny import grounded
from tests.weights.conftest import recording

__all__ = ["model", "recording"]


@pytest.fixture(scope="session")
def model() -> GroundedModel:
    return grounded("gpt2", tied=True)


@pytest.fixture(params=[False, True], ids=["in-step", "ahead"])
def engines(request: pytest.FixtureRequest) -> Engines:
    """Engines that wait for a step's tokens before the next one, and such as launch it first."""
    return partial(Engine, ahead=request.param)
