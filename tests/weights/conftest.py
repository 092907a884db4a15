"""Bundles imported from the recorded reference."""

from pathlib import Path

import pytest

from fromage_weights.importer import import_checkpoint
from fromage_weights.loading import load_grounded_model
from tests.weights.recording import Recording


@pytest.fixture(scope="session", params=["variant_a", "variant_b"])
def recording(
    request: pytest.FixtureRequest,
    reference_any: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Recording:
    path = reference_any / str(request.param)
    if not path.is_dir():
        pytest.skip(f"{request.param} is only in the full reference recording")
    bundle = tmp_path_factory.mktemp(f"bundle_{request.param}")
    hub = str(path / "hub")
    import_checkpoint(path / "model_dir", bundle, lm=hub, vision=hub)
    loaded = load_grounded_model(bundle, device="cpu", dtype="float32")
    return Recording(reference_any, str(request.param), loaded)
