"""Pictures to add to a collection of the test's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fromage_index.collection import Collection
from fromage_index.editor import Addition, create_collection
from tests.index.pictures import PROVENANCE, encode, plain, unit_rows

DIM = 6
VECTORS = unit_rows(64, DIM, seed=3)
FILES = [encode(plain((number * 4, 9, 9))) for number in range(64)]


def addition(number: int, **metadata: Any) -> Addition:
    return Addition(FILES[number], VECTORS[number], (24, 16), f"{number}", metadata)


def keys(collection: Collection) -> list[str]:
    """By falling likeness to the first vector."""
    hits = collection.search(VECTORS[:1], 100)[0]
    return [collection.image(hit.id).key for hit in hits]


def make_empty(directory: Path) -> Collection:
    create_collection(directory, dim=DIM, provenance=PROVENANCE, source="a test")
    return Collection.open(directory)
