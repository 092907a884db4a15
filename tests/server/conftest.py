"""Servers that the tests of this folder share."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from fromage_server.cli import main

from tests.server.process import serving
from tests.server.recording import COLLECTION, Replay


@pytest.fixture(scope="session", params=["variant_a", "variant_b"])
def replay(
    request: pytest.FixtureRequest,
    reference_any: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Replay]:
    """An official checkpoint, imported and served by the commands that a user would run."""
    path = reference_any / str(request.param)
    if not path.is_dir():
        pytest.skip(f"{request.param} is only in the full recording")
    work = tmp_path_factory.mktemp(f"replay_{request.param}")
    bundle, collection = str(work / "bundle"), str(work / "collection")
    model, hub = str(path / "model_dir"), str(path / "hub")
    images = reference_any / "images"
    assert main(["weights", "import", model, bundle, "--lm", hub, "--vision", hub]) == 0
    importing = ["index", "import-reference", model, "--collection", collection]
    assert main([*importing, "--bundle", bundle, "--images", str(images)]) == 0
    flags = ("--bundle", bundle, "--collection", f"{COLLECTION}={collection}")
    with serving(work, *flags, "--dtype", "float32") as client:
        yield Replay(client, images, path)
