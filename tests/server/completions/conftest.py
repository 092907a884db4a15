"""A server of the demo model, and what its clients need."""

import base64
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import openai
import pytest

from fromage_weights.demo.collection import demo_scenes, draw_item
from tests.conftest import absent
from tests.server.completions.environment import NotInstalled, ensure
from tests.server.process import serving

SHOWN = {"dog", "cow", "pig"}
DOG = "a dog on a red background"


@dataclass(frozen=True)
class Demo:
    """``dog`` is a picture of the world, as a PNG's bytes."""

    url: str
    dog: bytes

    @property
    def dog_uri(self) -> str:
        return "data:image/png;base64," + base64.b64encode(self.dog).decode()


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    """The demo model with a few dozen of its pictures."""
    work = tmp_path_factory.mktemp("demo")
    folder = work / "pictures"
    folder.mkdir()
    scenes = [scene for scene in demo_scenes() if scene.count < 3 and set(scene.objects) <= SHOWN]
    items = [draw_item(scene, seed=0) for scene in scenes]
    for item in items:
        (folder / item.key).write_bytes(item.image)
    lines = [json.dumps({"file_name": item.key, **item.metadata}) for item in items]
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    dog = next(item for item in items if item.metadata["caption"] == DOG)
    with serving(work, "--bundle", "demo", "--images", f"demo={folder}") as client:
        yield Demo(str(client.base_url).rstrip("/"), dog.image)


@pytest.fixture
def client(demo: Demo) -> Iterator[openai.OpenAI]:
    """As anybody would make one."""
    with openai.OpenAI(base_url=f"{demo.url}/v1", api_key="none", max_retries=0) as made:
        yield made


@pytest.fixture(scope="session")
def client_python() -> Path:
    """The Python of the other clients' environment; skips where it cannot be made."""
    try:
        return ensure()
    except NotInstalled as error:
        absent("clients", f"the other clients cannot be installed: {error}")
