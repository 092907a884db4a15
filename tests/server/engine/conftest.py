"""The recorded reference, imported as a bundle."""

from tests.weights.conftest import recording

__all__ = ["recording"]
