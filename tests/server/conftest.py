"""Servers that the tests of this folder share."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from fromage_server.cli import main
from tests.server import pictures
from tests.server.process import serving
from tests.server.recording import COLLECTION, Replay
from tests.server.sizes import PICTURES


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


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.server import tiny

    path = tmp_path_factory.mktemp("bundle") / "tiny"
    tiny.write_bundle(path)
    return path


@pytest.fixture(scope="session")
def tiny_collection(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built by the command; its images lie in the folder `pictures` beside it."""
    path = tmp_path_factory.mktemp("shelf")
    pictures.write_pictures(path / "pictures", PICTURES)
    build = ["index", "build", str(path / "pictures"), "--collection", str(path / "collection")]
    assert main([*build, "--bundle", str(tiny_bundle), "--device", "cpu"]) == 0
    return path / "collection"


@pytest.fixture(scope="session")
def server(
    tiny_bundle: Path, tiny_collection: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[httpx.Client]:
    """A running server of the tiny bundle, with narrow limits. Its second collection is indexed at
    its start."""
    flags = [
        *("--bundle", str(tiny_bundle)),
        *("--collection", f"shelf={tiny_collection}"),
        *("--images", f"box={tiny_collection.parent / 'pictures'}"),
        *("--max-batch", "2", "--max-queue", "1", "--max-body-mib", "1", "--keepalive-s", "0.2"),
    ]
    with serving(tmp_path_factory.mktemp("cache"), *flags) as client:
        yield client
