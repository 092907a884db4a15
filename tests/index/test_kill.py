"""A build that is killed leaves no collection, or the earlier one; the next build cleans up."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fromage_index import store
from fromage_index import writer as writer_module
from fromage_index.build import build_from_folder
from fromage_index.collection import Collection
from fromage_index.errors import CollectionExists, CollectionNotFound, PlaceUnusable
from fromage_index.manifest import Manifest, read_manifest
from fromage_index.writer import CollectionWriter
from tests.index.pictures import PROVENANCE, colour_embed, write_folder

# Embeds one batch, says so, and hangs in the second.
BUILD = """
import sys, time
from pathlib import Path
from fromage_index.build import build_from_folder
from tests.index.pictures import PROVENANCE, colour_embed

batches = 0

def embed(images):
    global batches
    batches += 1
    if batches == 2:
        print("half way", flush=True)
        time.sleep(60)
    return colour_embed(images)

build_from_folder(Path(sys.argv[1]), Path(sys.argv[2]), embed, dim=4, provenance=PROVENANCE,
                  batch_size=2, overwrite=True, copy=True)
"""


def start_build(folder: Path, out: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", BUILD, str(folder), str(out)],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "half way\n"
    return process


@pytest.mark.parametrize("earlier", [False, True])
def test_kill(tmp_path: Path, earlier: bool) -> None:
    folder, out = tmp_path / "folder", tmp_path / "out"
    write_folder(folder, ["a.png", "b.png"])
    if earlier:
        build_from_folder(folder, out, colour_embed, dim=4, provenance=PROVENANCE)
    write_folder(folder, ["c.png", "d.png", "e.png"])
    with start_build(folder, out) as process:
        with pytest.raises(CollectionExists, match="another build"):
            build_from_folder(
                folder, out, colour_embed, dim=4, provenance=PROVENANCE, overwrite=True
            )
        process.send_signal(signal.SIGKILL)
    if earlier:
        assert Collection.open(out).size == 2
    else:
        with pytest.raises(CollectionNotFound):
            Collection.open(out)
    build_from_folder(folder, out, colour_embed, dim=4, provenance=PROVENANCE, overwrite=earlier)
    assert Collection.open(out).size == 5
    assert sorted(file.name.split("-")[0] for file in out.iterdir()) == [
        ".lock",
        "manifest.json",
        "segment",
        "segment",
    ]


def test_interrupt_cleans_up(tmp_path: Path) -> None:
    write_folder(tmp_path / "folder", ["a.png", "b.png", "c.png"])
    with start_build(tmp_path / "folder", tmp_path / "out") as process:
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=20) != 0
    assert not (tmp_path / "out").exists()


def test_only_one_build_at_a_time(tmp_path: Path) -> None:
    """Also where both saw an empty place before either had its lock."""
    out = tmp_path / "out"
    arguments = {"dim": 4, "provenance": PROVENANCE, "source": "a test"}
    first = CollectionWriter(out, **arguments)  # type: ignore[arg-type]
    with first:
        first.add("a", [1, 0, 0, 0])
        with (
            pytest.raises(CollectionExists, match="another build"),
            CollectionWriter(out, **arguments),  # type: ignore[arg-type]
        ):
            pass
        first.commit()
    with (
        pytest.raises(CollectionExists, match="--overwrite"),
        CollectionWriter(out, **arguments),  # type: ignore[arg-type]
    ):
        pass


def test_opening_while_the_collection_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reader has the old manifest when its segments go: it reads the new one."""
    out = tmp_path / "out"

    def build(key: str) -> None:
        with CollectionWriter(
            out, dim=4, provenance=PROVENANCE, source="a test", overwrite=True
        ) as writer:
            writer.add(key, [1, 0, 0, 0])
            writer.commit()

    build("old")
    read = read_manifest
    replaced = False

    def read_then_replace(directory: Path) -> Manifest:
        nonlocal replaced
        found = read(directory)
        if not replaced:
            replaced = True
            build("new")
        return found

    monkeypatch.setattr(store, "read_manifest", read_then_replace)
    collection = Collection.open(out)
    (hit,) = collection.search(np.eye(1, 4, dtype=np.float32), 1)[0]
    assert collection.image(hit.id).key == "new"


def test_a_new_collections_folders_are_made_durable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[Path] = []
    monkeypatch.setattr(writer_module, "sync_directory", synced.append)
    out = tmp_path / "a" / "b"
    with CollectionWriter(out, dim=4, provenance=PROVENANCE, source="a test") as writer:
        writer.add("x", [1, 0, 0, 0])
        writer.commit()
    assert synced[:2] == [tmp_path, tmp_path / "a"]


def test_a_place_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    writer = CollectionWriter(
        tmp_path / "file" / "out", dim=4, provenance=PROVENANCE, source="a test"
    )
    with pytest.raises(PlaceUnusable, match="cannot be made"), writer:
        pass
