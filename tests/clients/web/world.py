"""Small collections for the demo model, and pictures to send."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from fromage_weights.demo.collection import DemoItem, draw_item
from fromage_weights.demo.world import Scene

SEED = 0
SCENES = (
    *(Scene((name,), 1, "green") for name in ("elephant", "cat", "guitar", "rocket", "pizza")),
    *(Scene(("cat",), 3, colour) for colour in ("blue", "red", "yellow")),
    *(Scene(("elephant",), count, "yellow") for count in (1, 2, 3)),
    Scene(("fox",), 2, "yellow"),
    Scene(("penguin", "rainbow"), 1, "white"),
)
SENT = Scene(("dog",), 2, "blue")
MARKUP = "<img src=x onerror=window.harmed=1>"


def write_folder(folder: Path) -> None:
    """The scenes, as `fromage index build` reads them."""
    items = [draw_item(scene, SEED) for scene in SCENES]
    _write(folder, [(item.key, item.image, item.metadata) for item in items])


def write_markup(folder: Path) -> None:
    """Pictures whose names and metadata look like HTML."""
    items = [draw_item(scene, SEED) for scene in SCENES[:4]]
    wicked = {"caption": f"<b>bold</b> {MARKUP}", "source": "<script>alert(1)</script>"}
    _write(folder, [(f"{MARKUP} {item.key}", item.image, wicked) for item in items])


def sent_picture() -> DemoItem:
    return draw_item(SENT, SEED)


def _write(folder: Path, items: Iterable[tuple[str, bytes, Mapping[str, Any]]]) -> None:
    folder.mkdir()
    lines = []
    for key, image, metadata in items:
        (folder / key).write_bytes(image)
        lines.append(json.dumps({"file_name": key, **metadata}))
    (folder / "metadata.jsonl").write_text("\n".join(lines), encoding="utf-8")
